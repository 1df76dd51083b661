/* instep
key = "id"
*/
-- EXISTS / NOT EXISTS multi-hop
SELECT p.id, p.name, EXISTS (SELECT 1 FROM stock_levels l WHERE l.product_id=p.id AND l.on_hand > 5) AS has_stock FROM products p
WHERE NOT EXISTS (SELECT 1 FROM order_lines ol JOIN orders o ON o.id=ol.order_id JOIN customers c ON c.id=o.customer_id WHERE ol.product_id=p.id AND c.tier='bad') OR p.active
