/* instep
key = "category"
*/
-- GROUP BY a non-key column
SELECT p.category, count(DISTINCT p.id) AS n, sum(l.on_hand) AS oh, min(p.price) AS cheapest FROM products p LEFT JOIN stock_levels l ON l.product_id=p.id GROUP BY p.category
