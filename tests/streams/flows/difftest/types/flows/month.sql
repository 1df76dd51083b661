/* instep
key = ["month", "stage"]
*/
SELECT date_trunc('month', a.opened::timestamp) AS month, a.stage, count(*) AS n, avg(a.credit) AS credit FROM crm.accounts a GROUP BY 1, 2
