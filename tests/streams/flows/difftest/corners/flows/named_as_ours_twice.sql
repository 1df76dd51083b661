/* instep
key = ["doc", "h"]
*/
SELECT k.k AS doc, g.h, r.score FROM k CROSS JOIN generate_series(1, 2) AS g(h) LEFT JOIN rated r ON r.id = k.k
