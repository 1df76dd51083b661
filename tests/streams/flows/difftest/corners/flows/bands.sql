/* instep
key = "band"
*/
SELECT CASE WHEN score > 50 THEN 'high' WHEN names[1] = 'a' THEN split_part(extra->>'color', '-', 1) ELSE initcap(names[2]) END AS band,
  count(*) AS n, max(mood::"Sales Dept"."State") AS mood, min(score) FILTER (WHERE mood::"Sales Dept"."State" < 'paid') AS low, count(*) FILTER (WHERE net <<= '10.0.0.0/8') AS inside
FROM rated GROUP BY 1
