/* instep
key = "id"
*/
SELECT id, plus_one(n) AS n FROM defaults
