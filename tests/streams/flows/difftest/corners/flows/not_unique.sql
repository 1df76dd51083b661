/* instep
key = "tier"
*/
SELECT c.tier, c."Full Name" AS name FROM "Sales Dept"."Customer" c
