/* instep
key = ["tenant_id", "rank"]
*/
SELECT tenant_id, name, credit, row_number() OVER (PARTITION BY tenant_id ORDER BY credit DESC NULLS LAST, id) AS rank FROM crm.accounts
