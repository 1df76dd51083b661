/* instep
key = "day"
*/
-- key is an expression (day)
SELECT date_trunc('day', o.placed_at AT TIME ZONE 'UTC') AS day, count(DISTINCT o.id) AS orders, sum(ol.qty*ol.price) AS revenue FROM orders o JOIN order_lines ol ON ol.order_id=o.id WHERE o.status<>'void' GROUP BY date_trunc('day', o.placed_at AT TIME ZONE 'UTC')
