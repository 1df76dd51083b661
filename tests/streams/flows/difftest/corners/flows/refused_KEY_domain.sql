/* instep
key = "credit"
*/
SELECT credit::numeric AS credit, count(*) AS n FROM (SELECT score AS credit FROM rated) d GROUP BY 1
