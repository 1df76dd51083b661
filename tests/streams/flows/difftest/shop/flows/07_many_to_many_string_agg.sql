/* instep
key = "id"
*/
-- many-to-many string_agg
SELECT p.id, string_agg(t.name, ',' ORDER BY t.name) AS tags, count(t.id) AS n FROM products p LEFT JOIN product_tags pt ON pt.product_id=p.id LEFT JOIN tags t ON t.id=pt.tag_id GROUP BY p.id
