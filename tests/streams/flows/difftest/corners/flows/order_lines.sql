/* instep
key = ["order_id", "no"]
*/
SELECT l.order_id, l.no, l.qty, l.price, l.total, o.state, o.history, c.tier FROM "Sales Dept"."Line" l
JOIN "Sales Dept"."Order" o ON o.id = l.order_id JOIN "Sales Dept"."Customer" c ON c."Id" = o."customerId" WHERE l.qty > 2
