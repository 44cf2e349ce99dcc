-- ARGV: destination, trip|close|hold|release, reason, first probe after ms, longest pause between probes in ms,
--       the key whose copy failed
local at, word, reason = P .. 'circuit:' .. ARGV[1], ARGV[2], ARGV[3]
local circuit = redis.call('HMGET', at, 'since', 'pause_ms', 'held', 'probe')
if word == 'close' or word == 'release' then
  if word == 'release' or not circuit[3] then redis.call('DEL', at) end
elseif word == 'hold' then
  redis.call('HSET', at, 'since', circuit[1] or now, 'held', '1', 'reason', reason)
elseif not circuit[1] or (circuit[4] == ARGV[6] and not circuit[3]) then
  -- Only the probe's own failure makes the pause longer, not those of the copies that were under way.
  local pause_ms = circuit[2] and math.min(circuit[2] * 2, tonumber(ARGV[5])) or tonumber(ARGV[4])
  redis.call('HSET', at, 'since', circuit[1] or now, 'reason', reason, 'pause_ms', pause_ms,
             'probe_at', now + pause_ms)
  redis.call('HDEL', at, 'probe')
end
return 0
