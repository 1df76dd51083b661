/* instep
key = ["id", "what"]
*/
SELECT r.id, v.what, v.n FROM rated r CROSS JOIN LATERAL (VALUES ('h', r.h), ('names', cardinality(r.names))) AS v(what, n) WHERE v.n IS NOT NULL
