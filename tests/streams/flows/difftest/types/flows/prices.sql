/* instep
key = "sku"
*/
SELECT sku, price FROM items
