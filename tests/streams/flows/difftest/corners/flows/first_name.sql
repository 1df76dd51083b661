/* instep
key = "first"
*/
SELECT names[1] AS first, array_agg(id ORDER BY id) AS ids FROM rated GROUP BY names[1]
