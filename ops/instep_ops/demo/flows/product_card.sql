/* instep
target = "crm"   object = "product.product"   key = "sku"   delete = "deactivate"
fields = ["name", "list_price", "description"]
*/
SELECT p.sku,
       p.name,
       round(p.price, 4) AS list_price,
       s.name AS supplier,
       coalesce(l.available, 0) AS available,
       coalesce(o.quantity, 0) AS on_order,
       l.low_stock,
       concat_ws(E'\n',
           'Available: ' || coalesce(l.available, 0)::text,
           'In open orders: ' || coalesce(o.quantity, 0)::text,
           'Low stock: ' || l.low_stock,
           'Supplier: ' || s.name) AS description
FROM products p
LEFT JOIN suppliers s ON s.id = p.supplier_id
LEFT JOIN (
    SELECT l.product_id,
           sum(l.on_hand - l.reserved) AS available,
           string_agg(w.name, ', ' ORDER BY w.name) FILTER (WHERE l.on_hand - l.reserved < l.reorder_point) AS low_stock
    FROM stock_levels l
    JOIN warehouses w ON w.id = l.warehouse_id
    GROUP BY l.product_id
) l ON l.product_id = p.id
LEFT JOIN (
    SELECT ol.product_id, sum(ol.quantity) AS quantity
    FROM order_lines ol
    JOIN orders o ON o.id = ol.order_id
    WHERE o.status IN ('new', 'paid')
    GROUP BY ol.product_id
) o ON o.product_id = p.id
WHERE NOT p.discontinued
