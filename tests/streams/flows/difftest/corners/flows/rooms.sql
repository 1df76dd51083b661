/* instep
key = "room"
*/
SELECT DISTINCT ON (b.room) b.room, b.during, p.name FROM hr.booking b LEFT JOIN hr.person p ON p.id = b.person_id ORDER BY b.room, lower(b.during), b.id
