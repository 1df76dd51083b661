/* instep
key = "id"
*/
SELECT id, made, n FROM defaults
