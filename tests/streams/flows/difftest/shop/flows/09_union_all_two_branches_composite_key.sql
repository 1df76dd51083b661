/* instep
key = ["kind", "id"]
*/
-- UNION ALL, two branches, composite key
SELECT 'product' AS kind, p.id, p.name FROM products p WHERE p.active UNION ALL SELECT 'parent', c.parent_id, string_agg(c.name, '|' ORDER BY c.id) FROM products c WHERE c.parent_id IS NOT NULL GROUP BY c.parent_id
