/* instep
key = "id"
*/
SELECT c."Id" AS id, last.state,
  (SELECT sum(l.qty) FROM "Sales Dept"."Line" l WHERE l.order_id IN (SELECT o.id FROM "Sales Dept"."Order" o WHERE o."customerId" = c."Id")) AS qty,
  (SELECT count(*) FROM "Sales Dept"."Line" l WHERE EXISTS (
    SELECT FROM "Sales Dept"."Order" o WHERE o.id = l.order_id AND o."customerId" = c."Id" AND o.state <> 'new')) AS paid
FROM "Sales Dept"."Customer" c LEFT JOIN "Sales Dept"."Order" last
  ON last.id = (SELECT max(o.id) FROM "Sales Dept"."Order" o WHERE o."customerId" = c."Id")
