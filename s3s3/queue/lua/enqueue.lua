-- ARGV: lane, tracker ('' for none), '1' to copy without comparing first,
--       JSON list with three items for each key: key, destinations, notified_ms ('' for now).
local lane, tracker, unconditional, requests = ARGV[2], ARGV[3], ARGV[4], cjson.decode(ARGV[5])
for i = 1, #requests, 3 do
  local key, destinations, notified_ms = requests[i], requests[i + 1], requests[i + 2]
  enqueue(key, destinations, lane, notified_ms ~= '' and notified_ms or tostring(now), tracker, unconditional)
end
return #requests / 3
