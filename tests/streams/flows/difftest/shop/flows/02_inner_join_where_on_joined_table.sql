/* instep
key = "id"
*/
-- inner join + where on joined table
SELECT p.id, p.name, s.name AS supplier, s.country FROM products p JOIN suppliers s ON s.id = p.supplier_id WHERE s.country <> 'DE' AND p.price > 5
