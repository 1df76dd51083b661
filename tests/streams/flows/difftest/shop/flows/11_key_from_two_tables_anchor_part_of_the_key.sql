/* instep
key = ["category", "country"]
*/
-- key from two tables (anchor = part of the key)
SELECT p.category, s.country, count(*) AS n, avg(p.price) AS avg_price FROM products p JOIN suppliers s ON s.id=p.supplier_id GROUP BY p.category, s.country HAVING count(*) >= 1
