/* instep
key = "day"
*/
SELECT s.day, count(DISTINCT s.item) AS items, count(DISTINCT (s.tenant_id, s.account_id)) AS accounts, sum(s.qty * i.price) AS worth FROM sales s JOIN items i ON i.sku = s.item GROUP BY s.day
