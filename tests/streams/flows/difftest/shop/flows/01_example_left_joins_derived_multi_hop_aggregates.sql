/* instep
key = "product_id"
*/
-- example: left joins, derived multi-hop, aggregates
SELECT p.id AS product_id, p.sku, p.name, p.price, s.name AS supplier, COALESCE(SUM(l.on_hand - l.reserved),0) AS available, COUNT(*) FILTER (WHERE l.on_hand < l.reorder_point) AS low_sites, MAX(o.placed_at) AS last_order
FROM products p LEFT JOIN suppliers s ON s.id=p.supplier_id LEFT JOIN stock_levels l ON l.product_id=p.id
LEFT JOIN (SELECT ol.product_id, max(o.placed_at) AS placed_at FROM order_lines ol JOIN orders o ON o.id=ol.order_id WHERE o.status='open' GROUP BY ol.product_id) o ON o.product_id=p.id WHERE p.active GROUP BY p.id, s.name
