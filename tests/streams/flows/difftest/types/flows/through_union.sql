/* instep
key = "sku"
*/
SELECT i.sku, count(t.id) AS tenants, max(t.name) AS last_tenant FROM items i
JOIN (SELECT s.item, s.tenant_id FROM sales s UNION ALL SELECT o.item, o."a%s" FROM "Odd ""Names""" o) u ON u.item = i.sku
JOIN crm.tenants t ON t.id = u.tenant_id GROUP BY i.sku
