-- Register processes and their heartbeats; heartbeat.py documents the keys.
-- KEYS[1]: the route's prefix.  ARGV: a command, then
--   register    id, info (JSON), retention_s
--   deregister  id
--   list        returns {id, info, age of the heartbeat in ms, ...}
local command, id = ARGV[1], ARGV[2]
local processes, infos = KEYS[1] .. 'processes', KEYS[1] .. 'processes:info'
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function remove(process)
  redis.call('ZREM', processes, process)
  redis.call('HDEL', infos, process)
end

if command == 'register' then
  local oldest_ms = string.format('%d', now_ms - ARGV[4] * 1000)
  for _, expired in ipairs(redis.call('ZRANGEBYSCORE', processes, '-inf', '(' .. oldest_ms)) do remove(expired) end
  redis.call('ZADD', processes, string.format('%d', now_ms), id)
  redis.call('HSET', infos, id, ARGV[3])
  redis.call('EXPIRE', processes, ARGV[4])
  redis.call('EXPIRE', infos, ARGV[4])
  return false
elseif command == 'deregister' then
  remove(id)
  return false
end
local found, scores = {}, redis.call('ZRANGE', processes, 0, -1, 'WITHSCORES')
for i = 1, #scores, 2 do
  local info = redis.call('HGET', infos, scores[i])
  if info then
    for _, part in ipairs({scores[i], info, now_ms - scores[i + 1]}) do found[#found + 1] = part end
  end
end
return found
