/* instep
keys = "id"
*/
SELECT id, n FROM defaults
