/* instep
key = "id"
*/
SELECT id, a FROM parent
