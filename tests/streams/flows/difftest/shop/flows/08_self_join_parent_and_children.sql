/* instep
key = "id"
*/
-- self-join parent and children
SELECT p.id, p.name, par.name AS parent, count(ch.id) AS children, array_agg(ch.id ORDER BY ch.id) AS kids FROM products p LEFT JOIN products par ON par.id=p.parent_id LEFT JOIN products ch ON ch.parent_id=p.id GROUP BY p.id, par.name
