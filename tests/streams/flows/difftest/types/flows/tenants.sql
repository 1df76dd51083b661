/* instep
key = "name"
*/
SELECT t.name, (SELECT count(*) FROM crm.accounts a WHERE a.tenant_id = t.id AND a.stage IN ('won', 'lead')) AS open,
  EXISTS (SELECT * FROM sales s JOIN items i ON i.sku = s.item WHERE s.tenant_id = t.id AND i.active) AS sells,
  ARRAY(SELECT DISTINCT s.item FROM sales s WHERE s.tenant_id = t.id ORDER BY s.item) AS bought
FROM crm.tenants t
