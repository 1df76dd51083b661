/* instep
key = "pid"
*/
-- CTE referenced twice
WITH st AS (SELECT product_id, sum(on_hand) AS oh, count(*) AS n FROM stock_levels GROUP BY product_id)
SELECT p.id AS pid, a.oh, b.oh AS parent_oh, a.n FROM products p LEFT JOIN st a ON a.product_id=p.id LEFT JOIN st b ON b.product_id=p.parent_id
