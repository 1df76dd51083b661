/* instep
key = "who"
*/
SELECT u.who, count(*) AS n, sum(u.n) AS total, max(p.name) AS name, string_agg(DISTINCT t.name, ',' ORDER BY t.name) AS teams
FROM (SELECT boss_id AS who, touched AS n, team_id FROM hr.person UNION ALL SELECT lead_id, NULL, id FROM hr.team
  UNION ALL SELECT person_id, room, NULL FROM hr.booking) u
LEFT JOIN hr.person p ON p.id = u.who LEFT JOIN hr.team t ON t.id = u.team_id GROUP BY u.who
