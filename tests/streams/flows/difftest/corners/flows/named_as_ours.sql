/* instep
key = "c0"
*/
SELECT k AS c0, doc AS h, h AS oh FROM k
