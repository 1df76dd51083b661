/* instep
key = "sku"
*/
WITH sold AS (SELECT item, sum(qty) AS qty, max(day) AS last_day, sum(qty * price) AS revenue FROM sales GROUP BY item)
SELECT i.sku, i.price, i.cost, i.weight, i.tags, i.photo, i.net, i.made, i.at_time, i.active, sold.qty, sold.last_day, sold.revenue,
  array_length(i.tags, 1) AS n_tags, 'x' = ANY (i.tags) AS tagged
FROM items i LEFT JOIN sold ON sold.item = i.sku
