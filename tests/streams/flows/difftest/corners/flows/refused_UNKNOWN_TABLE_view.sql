/* instep
key = "Id"
*/
SELECT "Id" FROM gold
