-- ARGV: store, trip|close|hold|release, reason, first probe after ms, longest pause between probes in ms,
--       the key whose copy failed
local at, word, reason, first_ms, longest_ms, key =
  P .. 'circuit:' .. ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local since, pause_ms, held, probe = unpack(redis.call('HMGET', at, 'since', 'pause_ms', 'held', 'probe'))
if word == 'close' or word == 'release' then
  if word == 'release' or not held then redis.call('DEL', at) end
elseif word == 'hold' then
  redis.call('HSET', at, 'since', since or now, 'held', '1', 'reason', reason)
  redis.call('HDEL', at, 'probe')
elseif not since or (probe == key and not held) then
  -- Only the probe's own failure makes the pause longer, not those of the copies that were under way.
  pause_ms = pause_ms and math.min(pause_ms * 2, longest_ms) or first_ms
  redis.call('HSET', at, 'since', since or now, 'reason', reason, 'pause_ms', pause_ms, 'probe_at', now + pause_ms)
  redis.call('HDEL', at, 'probe')
end
return 0
