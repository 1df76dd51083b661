/* instep
key = "id"
*/
SELEC id FROM defaults
