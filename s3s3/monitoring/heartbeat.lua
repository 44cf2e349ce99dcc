-- Who works on a route; fleet.py says what the keys hold.
-- KEYS[1]: the route's prefix.  ARGV: a word, then
--   here    id, about (JSON), kept_s
--   gone    id
--   read    returns {id, about, how long ago in ms, ...}
local P, word, id = KEYS[1], ARGV[1], ARGV[2]
local at, about = P .. 'fleet', P .. 'fleet:about'
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function forget(who)
  redis.call('ZREM', at, who)
  redis.call('HDEL', about, who)
end

if word == 'here' then
  local oldest = now_ms - ARGV[4] * 1000
  for _, who in ipairs(redis.call('ZRANGEBYSCORE', at, '-inf', '(' .. string.format('%d', oldest))) do forget(who) end
  redis.call('ZADD', at, string.format('%d', now_ms), id)
  redis.call('HSET', about, id, ARGV[3])
  redis.call('EXPIRE', at, ARGV[4])
  redis.call('EXPIRE', about, ARGV[4])
  return false
elseif word == 'gone' then
  forget(id)
  return false
end
local found, seen = {}, redis.call('ZRANGE', at, 0, -1, 'WITHSCORES')
for i = 1, #seen, 2 do
  local text = redis.call('HGET', about, seen[i])
  if text then
    for _, part in ipairs({seen[i], text, now_ms - seen[i + 1]}) do found[#found + 1] = part end
  end
end
return found
