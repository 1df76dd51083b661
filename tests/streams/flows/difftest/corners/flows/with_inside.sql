/* instep
key = "k"
*/
SELECT k.k, (WITH own AS (SELECT r.id, r.score FROM rated r WHERE r.h = k.h) SELECT string_agg(d.n::text, ',' ORDER BY d.id) FROM own JOIN defaults d ON d.id = own.id) AS ns FROM k
