/* instep
key = "team_id"
*/
SELECT team_id, array_agg(name) AS names FROM hr.person GROUP BY team_id
