/* instep
key = "mood"
*/
SELECT mood::"Sales Dept"."State" AS mood, count(*) AS n, array_agg(id ORDER BY mood, id) AS ids FROM rated GROUP BY 1
