/* instep
key = "id"
*/
SELECT id FROM scratch
