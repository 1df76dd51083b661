/* instep
key = "name"
*/
SELECT t.name, count(p.id) AS people, string_agg(p.name, ', ' ORDER BY p.name, p.id) AS names FROM hr.team t LEFT JOIN hr.person p ON p.team_id = t.id GROUP BY t.name
