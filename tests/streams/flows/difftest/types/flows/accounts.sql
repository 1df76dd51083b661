/* instep
key = ["tenant_id", "id"]
*/
SELECT a.tenant_id, a.id, a.name, a.stage, a.stages, a.credit, a.opened, t.name AS tenant, count(c.id) AS contacts,
  string_agg(c.email, $$,$$ ORDER BY c.email, c.id) AS emails
FROM crm.accounts a
JOIN crm.tenants t ON t.id = a.tenant_id
LEFT JOIN crm.contacts c ON c.tenant_id = a.tenant_id AND c.account_id = a.id
GROUP BY a.tenant_id, a.id, t.name -- composite foreign key
