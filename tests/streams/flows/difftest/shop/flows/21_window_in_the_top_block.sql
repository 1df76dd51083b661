/* instep
key = ["product_id", "wh_rank"]
*/
-- window in the top block
SELECT l.product_id, rank() OVER w AS r0, row_number() OVER (PARTITION BY l.product_id ORDER BY l.on_hand, l.id) AS wh_rank, l.wh, sum(l.on_hand) OVER (PARTITION BY l.product_id) AS tot FROM stock_levels l JOIN products p ON p.id=l.product_id WINDOW w AS (PARTITION BY l.product_id ORDER BY l.on_hand, l.id)
