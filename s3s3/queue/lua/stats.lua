-- ARGV: names of stores.
-- Returns {fresh, bulk, retries, rechecks, 1 if the route is paused, age of the oldest pending key in ms,
--          for each store {parked keys, dead letters, why its circuit is open (nil if it is closed)}}.
-- Of retries and of parked keys a sample is read: a call must stay short. Keys are parked from when a circuit opened on.
local SAMPLE = 100
local oldest_ms, stores = now, {}

local function include(time_ms)
  oldest_ms = math.min(oldest_ms, tonumber(time_ms) or now)
end

for _, lane in ipairs({'fresh', 'bulk'}) do
  local first = redis.call('XRANGE', PREFIX .. lane, '-', '+', 'COUNT', 1)[1]
  if first then include(first[1]:match('^%d+')) end
end
for _, key in ipairs(redis.call('ZRANGE', PREFIX .. 'retries', 0, SAMPLE - 1)) do
  include(read_record(key).notified_ms)
end
for i = 2, #ARGV do
  local name = ARGV[i]
  local parked = redis.call('SCARD', PREFIX .. 'parked:' .. name)
  for _, key in ipairs(redis.call('SRANDMEMBER', PREFIX .. 'parked:' .. name, SAMPLE)) do
    include(read_record(key).notified_ms)
  end
  if parked > SAMPLE then include(redis.call('HGET', PREFIX .. 'circuit:' .. name, 'since')) end
  stores[i - 1] = {parked,
                   redis.call('HLEN', PREFIX .. 'dead-letters:' .. name),
                   redis.call('HGET', PREFIX .. 'circuit:' .. name, 'reason')}
end
return {redis.call('XLEN', PREFIX .. 'fresh'), redis.call('XLEN', PREFIX .. 'bulk'),
        redis.call('ZCARD', PREFIX .. 'retries'), redis.call('ZCARD', PREFIX .. 'rechecks'),
        redis.call('EXISTS', PREFIX .. 'paused'), now - oldest_ms, stores}
