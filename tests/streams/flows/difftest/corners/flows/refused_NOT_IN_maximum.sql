/* instep
key = "k"
*/
SELECT k.k, m.last FROM k JOIN LATERAL (SELECT max(r.id) AS last FROM rated r WHERE r.h = k.h) m ON true WHERE coalesce(m.last NOT IN (SELECT d.id FROM defaults d), true)
