/* instep
key = "x.y"
*/
SELECT "x.y", "é" AS "É", "say ""hi""" AS "50% ""off""", a, b, c, d::text AS d, e::text AS e, f, g, h, i, j, k[1] AS k FROM "a.b"
