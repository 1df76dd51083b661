/* instep
key = ["kind", "id"]
*/
SELECT 'sale' AS kind, s.item AS id, sum(s.qty) AS n FROM sales s GROUP BY s.item UNION ALL SELECT 'item', i.sku, i.cost FROM items i WHERE i.active
