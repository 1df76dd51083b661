/* instep
key = "Key"
*/
SELECT o."Key", o."select" AS "from", o."a%s", i.price AS "the price" FROM "Odd ""Names""" o JOIN items i ON i.sku = o.item
