-- ARGV: names of stores.
-- Returns {fresh, bulk, retries, rechecks, 1 if the route is paused, age of the oldest entry in ms,
--          for each store {parked keys, dead letters, why its circuit is open (nil if it is closed)}}.
local oldest_ms, stores = now, {}
for _, lane in ipairs({'fresh', 'bulk'}) do
  local first = redis.call('XRANGE', PREFIX .. lane, '-', '+', 'COUNT', 1)[1]
  if first then oldest_ms = math.min(oldest_ms, tonumber(first[1]:match('^%d+'))) end
end
for i = 2, #ARGV do
  local name = ARGV[i]
  stores[i - 1] = {redis.call('SCARD', PREFIX .. 'parked:' .. name),
                   redis.call('HLEN', PREFIX .. 'dead-letters:' .. name),
                   redis.call('HGET', PREFIX .. 'circuit:' .. name, 'reason')}
end
return {redis.call('XLEN', PREFIX .. 'fresh'), redis.call('XLEN', PREFIX .. 'bulk'),
        redis.call('ZCARD', PREFIX .. 'retries'), redis.call('ZCARD', PREFIX .. 'rechecks'),
        redis.call('EXISTS', PREFIX .. 'paused'), now - oldest_ms, stores}
