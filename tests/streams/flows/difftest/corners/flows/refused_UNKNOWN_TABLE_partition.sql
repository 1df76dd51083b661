/* instep
key = "device"
*/
SELECT device, at FROM measurements_old
