/* instep
key = "id"
*/
SELECT id, a, b FROM child
