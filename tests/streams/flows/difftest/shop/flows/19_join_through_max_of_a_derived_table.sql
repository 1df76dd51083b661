/* instep
key = "id"
*/
-- join through MAX() of a derived table
SELECT p.id, o.status, o.placed_at FROM products p JOIN (SELECT product_id, max(order_id) AS oid FROM order_lines GROUP BY product_id) m ON m.product_id=p.id JOIN orders o ON o.id=m.oid
