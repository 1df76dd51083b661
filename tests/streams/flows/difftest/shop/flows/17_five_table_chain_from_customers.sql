/* instep
key = "id"
*/
-- five-table chain from customers
SELECT c.id, c.name, count(DISTINCT o.id) AS orders, sum(ol.qty*ol.price) AS spent, count(DISTINCT s.id) FILTER (WHERE s.vip) AS vips, max(p.name) AS maxname FROM customers c LEFT JOIN orders o ON o.customer_id=c.id LEFT JOIN order_lines ol ON ol.order_id=o.id LEFT JOIN products p ON p.id=ol.product_id LEFT JOIN suppliers s ON s.id=p.supplier_id GROUP BY c.id, c.name
