/* instep
key = "line"
*/
SELECT line FROM log
