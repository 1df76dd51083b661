/* instep
key = "id"
*/
SELECT id, made > now() AS later FROM defaults
