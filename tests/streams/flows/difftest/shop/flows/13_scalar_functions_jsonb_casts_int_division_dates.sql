/* instep
key = "id"
*/
-- scalar functions, jsonb, casts, int division, dates
SELECT p.id, upper(p.name) AS u, left(p.sku,3)||'-'||lpad(p.id::text,6,'0') AS code, p.attrs->>'color' AS color, (p.attrs->'dims'->>'w')::int / 4 AS w4, p.attrs @> '{"hot":true}' AS hot, p.attrs #>> '{dims,h}' AS h, jsonb_build_object('p',p.price,'s',s.name) AS o,
CASE WHEN p.price IS NULL THEN 'n/a' WHEN p.price/3 > 10 THEN 'hi' ELSE 'lo' END AS band, p.price/3 AS third, round(p.price*1.19,2) AS gross, date_trunc('month', p.created_at) AS m, to_char(p.created_at,'YYYY-MM-DD HH24:MI') AS ts, p.created_at + interval '1 month' AS nextm, extract(epoch from p.created_at) AS ep, coalesce(nullif(p.category,''),'none') AS cat,
regexp_replace(coalesce(p.name,''),'[0-9]+','#','g') AS rx, p.name ILIKE 'a%' AS il, (-7)/2 AS q, p.id % 3 AS md, s.name IS DISTINCT FROM 'x' AS d, concat_ws('/',p.category,s.country) AS cw, initcap(p.name) AS ic, format('%s:%s',p.sku,p.price) AS f, greatest(p.price,10) AS g, p.created_at::date AS dt, md5(p.sku) AS h5 FROM products p LEFT JOIN suppliers s ON s.id=p.supplier_id
