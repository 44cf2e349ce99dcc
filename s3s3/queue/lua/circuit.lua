-- ARGV: store, command (trip, close, pause or resume), reason, initial backoff in ms, maximum backoff in ms,
--       key of the failed copy.
local circuit, command, reason = PREFIX .. 'circuit:' .. ARGV[2], ARGV[3], ARGV[4]
local initial_backoff_ms, max_backoff_ms, failed_key = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local since, backoff_ms, paused, probe = unpack(redis.call('HMGET', circuit, 'since', 'backoff_ms', 'paused', 'probe'))

if command == 'resume' or (command == 'close' and not paused) then
  redis.call('DEL', circuit)
elseif command == 'pause' then
  redis.call('HSET', circuit, 'since', since or now, 'paused', '1', 'reason', reason)
  redis.call('HDEL', circuit, 'probe')
elseif command == 'trip' and (not since or (probe == failed_key and not paused)) then
  -- Of an open circuit, only the probe's failure doubles the backoff: other copies may have been running before.
  backoff_ms = backoff_ms and math.min(backoff_ms * 2, max_backoff_ms) or initial_backoff_ms
  redis.call('HSET', circuit, 'since', since or now, 'reason', reason, 'backoff_ms', backoff_ms,
             'probe_at', now + backoff_ms)
  redis.call('HDEL', circuit, 'probe')
end
return 0
