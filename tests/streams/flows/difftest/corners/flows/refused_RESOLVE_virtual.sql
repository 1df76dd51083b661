/* instep
key = "order_id"
*/
SELECT order_id, sum(twice) AS n FROM "Sales Dept"."Line" GROUP BY order_id
