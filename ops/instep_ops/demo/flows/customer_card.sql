/* instep
target = "crm"   object = "party.party"   key = "code"   delete = "deactivate"
fields = ["name", "email", "other_orders", "other_spent", "other_last_order"]
*/
SELECT c.code,
       c.name,
       c.email,
       count(o.id) AS orders,
       coalesce(sum(o.total), 0) AS spent,
       max(o.ordered_at) AS last_order,
       count(o.id)::text AS other_orders,
       coalesce(sum(o.total), 0)::text AS other_spent,
       to_char(max(o.ordered_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS other_last_order
FROM customers c
LEFT JOIN orders o ON o.customer_id = c.id AND o.status IN ('new', 'paid', 'shipped')
GROUP BY c.id
