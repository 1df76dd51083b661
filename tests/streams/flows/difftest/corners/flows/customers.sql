/* instep
key = "id"
*/
SELECT c."Id" AS id, c."Full Name" AS name, c."emailAddress", c.tier, c.discount, count(o.id) AS orders, sum(l.total) AS spent,
  count(*) FILTER (WHERE o.state = 'it''s lost') AS lost, max(o.closed) AS closed
FROM "Sales Dept"."Customer" c LEFT JOIN "Sales Dept"."Order" o ON o."customerId" = c."Id" LEFT JOIN "Sales Dept"."Line" l ON l.order_id = o.id
GROUP BY c."Id"
