/* instep
key = ["id", "no"]
*/
SELECT r.id, n.ordinality AS no, n.name, r.id IN (SELECT k.k FROM k) AS known FROM rated r CROSS JOIN LATERAL unnest(r.names) WITH ORDINALITY AS n(name)
WHERE r.h IN (SELECT k.h FROM k) OR r.score > 10
