-- ARGV: store, command (trip, release, close, pause or resume), reason, initial backoff in ms, maximum backoff in ms,
--       key of the copy that failed (trip) or showed nothing about the store (release),
--       '1' if no other key has failed.
--       For close, the reason is what was used successfully ('STORE', 'STORE:write'). The keys that are queued then must
--       find it, although the job that closes the circuit is not finished yet.
local circuit, command, reason = PREFIX .. 'circuit:' .. ARGV[2], ARGV[3], ARGV[4]
local initial_backoff_ms, max_backoff_ms, key, is_only_key = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7], ARGV[8] == '1'
local since, backoff_ms, paused, probe, only_key = unpack(redis.call(
  'HMGET', circuit, 'since', 'backoff_ms', 'paused', 'probe', 'only_key'))

local function probe_after(delay_ms)
  redis.call('HSET', circuit, 'probe_at', now + delay_ms)
  redis.call('HDEL', circuit, 'probe')
end

if command == 'close' then
  for name in each(reason) do redis.call('HSET', PREFIX .. 'successes', name, now) end
end
if command == 'resume' or (command == 'close' and not paused) then
  redis.call('DEL', circuit)
elseif command == 'pause' then
  redis.call('HSET', circuit, 'since', since or now, 'paused', '1', 'reason', reason)
  redis.call('HDEL', circuit, 'probe')
elseif command == 'trip' and not paused then
  -- Of an open circuit, only the probe's failure doubles the backoff: other copies may have been running before.
  if not since or probe == key then
    backoff_ms = backoff_ms and math.min(backoff_ms * 2, max_backoff_ms) or initial_backoff_ms
    redis.call('HSET', circuit, 'since', since or now, 'reason', reason, 'backoff_ms', backoff_ms)
    probe_after(backoff_ms)
  end
  if not since and is_only_key then
    redis.call('HSET', circuit, 'only_key', key)
  elseif only_key and only_key ~= key then
    redis.call('HDEL', circuit, 'only_key')
  end
elseif command == 'release' and probe == key and not paused then
  probe_after(backoff_ms)
end
return 0
