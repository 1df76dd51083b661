/* instep
key = "k"
*/
SELECT k.k, x.id, x.score FROM k LEFT JOIN LATERAL (
  SELECT r.id, r.net AS score FROM rated r WHERE r.h = k.h ORDER BY coalesce(score, 0) DESC, r.id LIMIT 1) x ON true
