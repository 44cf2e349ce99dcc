-- ARGV: names of stores.
-- Returns {fresh, bulk, waiting, looks, paused, age of the oldest entry in ms,
--          for each store {keys parked, dead letters, why its circuit is open (nil where it is not)}}.
local oldest_ms, stores = now, {}
for _, lane in ipairs({'fresh', 'bulk'}) do
  local first = redis.call('XRANGE', P .. lane, '-', '+', 'COUNT', 1)[1]
  if first then oldest_ms = math.min(oldest_ms, tonumber(first[1]:match('^%d+'))) end
end
for i = 2, #ARGV do
  local name = ARGV[i]
  stores[i - 1] = {redis.call('SCARD', P .. 'parked:' .. name), redis.call('HLEN', P .. 'dead:' .. name),
                   redis.call('HGET', P .. 'circuit:' .. name, 'reason')}
end
return {redis.call('XLEN', P .. 'fresh'), redis.call('XLEN', P .. 'bulk'), redis.call('ZCARD', P .. 'waiting'),
        redis.call('ZCARD', P .. 'looks'), redis.call('EXISTS', P .. 'paused'), now - oldest_ms, stores}
