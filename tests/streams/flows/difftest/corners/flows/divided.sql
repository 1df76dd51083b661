/* instep
key = "id"
*/
SELECT o.id, 12 / (SELECT count(*) FROM "Sales Dept"."Line" l WHERE l.order_id = o.id) AS share FROM "Sales Dept"."Order" o
