/* instep
key = "id"
*/
SELECT id, (home).zip AS zip FROM hr.person
