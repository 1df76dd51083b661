/* instep
key = "id"
*/
-- LATERAL top-1 then a join on its output
SELECT p.id, x.qty, x.placed_at, c.name AS customer FROM products p LEFT JOIN LATERAL (SELECT ol.qty, o.placed_at, o.customer_id FROM order_lines ol JOIN orders o ON o.id=ol.order_id WHERE ol.product_id=p.id ORDER BY o.placed_at DESC NULLS LAST, ol.order_id DESC, ol.line_no DESC LIMIT 1) x ON true LEFT JOIN customers c ON c.id=x.customer_id
