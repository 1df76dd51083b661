/* instep
key = "id"
*/
-- scalar subquery + IN subquery
SELECT p.id, (SELECT max(l.on_hand) FROM stock_levels l WHERE l.product_id=p.id) AS mx, (SELECT s.name FROM suppliers s WHERE s.id=p.supplier_id) AS sn FROM products p WHERE p.supplier_id IN (SELECT s.id FROM suppliers s WHERE s.vip) AND p.active
