/* instep
key = ["sku", "tag"]
*/
SELECT DISTINCT i.sku, tag, i.price FROM items i CROSS JOIN LATERAL unnest(i.tags) AS tag
