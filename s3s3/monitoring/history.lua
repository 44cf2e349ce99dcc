-- Per-minute statistics of a route; history.py documents the keys.
-- KEYS[1]: the route's prefix.  ARGV: a command, then
--   add    retention_s, max failures, failures' retention_s, N, N failures (JSON objects), FIELD NUMBER ...
--   read   minutes; returns {now in ms, {FIELD NUMBER ...} for each minute, oldest first, failures, newest first}
local prefix, command = KEYS[1], ARGV[1]
local failures = prefix .. 'failures'
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
local this_minute = math.floor(now_ms / 60000)
local function minute_key(minute) return string.format('%sminute:%d', prefix, minute) end

if command == 'add' then
  local count, first_field = tonumber(ARGV[5]), 6 + ARGV[5]
  if #ARGV >= first_field then
    local key = minute_key(this_minute)
    for i = first_field, #ARGV, 2 do redis.call('HINCRBY', key, ARGV[i], ARGV[i + 1]) end
    redis.call('EXPIRE', key, ARGV[2])
  end
  for i = 6, 5 + count do
    redis.call('LPUSH', failures, string.format('{"at_ms": %d, ', now_ms) .. ARGV[i]:sub(2))
  end
  if count > 0 then
    redis.call('LTRIM', failures, 0, ARGV[3] - 1)
    redis.call('EXPIRE', failures, ARGV[4])
  end
  return false
end

local minutes = {}
for minute = this_minute - ARGV[2] + 1, this_minute do
  minutes[#minutes + 1] = redis.call('HGETALL', minute_key(minute))
end
return {string.format('%d', now_ms), minutes, redis.call('LRANGE', failures, 0, -1)}
