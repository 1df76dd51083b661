/* instep
key = ["id", "what"]
*/
-- UNION (distinct)
SELECT p.id, p.category AS what FROM products p UNION SELECT pt.product_id, t.name FROM product_tags pt JOIN tags t ON t.id=pt.tag_id
