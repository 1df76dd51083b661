/* instep
key = "mood"
*/
SELECT mood, count(*) AS n FROM rated GROUP BY mood
