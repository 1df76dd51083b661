/* instep
key = "id"
*/
SELECT id, active FROM hr.person
