/* instep
key = "product_id"
*/
-- HAVING, count distinct, order-line documents
SELECT ol.product_id, sum(ol.qty) AS q, count(DISTINCT o.customer_id) AS custs, percentile_cont(0.5) WITHIN GROUP (ORDER BY ol.price::float8) AS med FROM order_lines ol JOIN orders o ON o.id=ol.order_id GROUP BY ol.product_id HAVING sum(ol.qty) > 3
