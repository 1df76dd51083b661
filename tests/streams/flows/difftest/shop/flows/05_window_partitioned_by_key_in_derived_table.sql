/* instep
key = "id"
*/
-- window partitioned by key in derived table
SELECT p.id, p.name, x.wh, x.on_hand FROM products p JOIN (SELECT l.product_id, l.wh, l.on_hand, row_number() OVER (PARTITION BY l.product_id ORDER BY l.on_hand DESC NULLS LAST, l.id) AS rn FROM stock_levels l) x ON x.product_id=p.id AND x.rn=1
