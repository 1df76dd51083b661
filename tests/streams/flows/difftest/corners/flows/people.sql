/* instep
key = "id"
*/
SELECT p.id, p.name, t.name AS team, b.name AS boss, lead.name AS lead, p.mood, p.skills, p.shift, p.touched
FROM hr.person p JOIN hr.team t ON t.id = p.team_id LEFT JOIN hr.person b ON b.id = p.boss_id LEFT JOIN hr.person lead ON lead.id = t.lead_id
