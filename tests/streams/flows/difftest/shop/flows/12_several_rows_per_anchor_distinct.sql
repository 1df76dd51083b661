/* instep
key = ["product_id", "tag"]
*/
-- several rows per anchor, DISTINCT
SELECT DISTINCT p.id AS product_id, t.name AS tag, p.name FROM products p JOIN product_tags pt ON pt.product_id=p.id JOIN tags t ON t.id=pt.tag_id
