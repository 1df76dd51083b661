/* instep
key = "id"
*/
SELECT c.id, c.email, c.prefs, c.seen, a.name AS account, a.stage = 'won' AS won, t."50% off", c.email LIKE '%a%' AS has_a
FROM crm.contacts c LEFT JOIN crm.accounts a USING (tenant_id) LEFT JOIN crm.tenants t ON t.id = a.tenant_id
WHERE a.id = c.account_id
