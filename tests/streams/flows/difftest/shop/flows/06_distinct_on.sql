/* instep
key = "product_id"
*/
-- DISTINCT ON
SELECT DISTINCT ON (l.product_id) l.product_id, l.wh, l.on_hand, p.name FROM stock_levels l LEFT JOIN products p ON p.id=l.product_id ORDER BY l.product_id, l.on_hand DESC, l.id
