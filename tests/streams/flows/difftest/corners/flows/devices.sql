/* instep
key = "device"
*/
SELECT m.device, count(*) AS n, max(m.at) AS last FROM measurements m WHERE m.at > '2023-06-01' GROUP BY m.device
