/* instep
key = "id"
*/
SELECT p.id, p.name, p.id <> ALL (SELECT d.id FROM defaults d WHERE d.n > 3) AS unnamed FROM hr.person p WHERE p.team_id = ANY (SELECT t.id FROM hr.team t WHERE t.lead_id IS NULL) OR p.touched > 0
