-- Per-minute statistics of a route; history.py documents the keys.
-- KEYS[1]: the route's prefix.  ARGV: a command, then
--   add    retention_s, max failures, failures' retention_s, quarters' retention_s, stores, N, N failures (JSON objects),
--          FIELD NUMBER ...
--   read   minutes, quarters; returns {now in ms, {FIELD NUMBER ...} for each minute, oldest first, failures, newest
--          first, {FIELD NUMBER ...} for each quarter}
local prefix, command = KEYS[1], ARGV[1]
local failures = prefix .. 'failures'
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
local this_minute = math.floor(now_ms / 60000)
local this_quarter = math.floor(now_ms / 900000)
local function minute_key(minute) return string.format('%sminute:%d', prefix, minute) end
local function quarter_key(quarter) return string.format('%squarter:%d', prefix, quarter) end

-- Keys on the queue. One that is parked and has a retry is counted twice.
local function depth(stores)
  local count = redis.call('ZCARD', prefix .. 'retries')
  for _, lane in ipairs({'fresh', 'bulk'}) do count = count + redis.call('XLEN', prefix .. lane) end
  for store in stores:gmatch('[^ ]+') do count = count + redis.call('SCARD', prefix .. 'parked:' .. store) end
  return count
end

if command == 'add' then
  local count, first_field, pending = tonumber(ARGV[7]), 8 + ARGV[7], depth(ARGV[6])
  for key, retention_s in pairs({[minute_key(this_minute)] = ARGV[2], [quarter_key(this_quarter)] = ARGV[5]}) do
    for i = first_field, #ARGV, 2 do redis.call('HINCRBY', key, ARGV[i], ARGV[i + 1]) end
    if pending >= tonumber(redis.call('HGET', key, '(queue) depth') or 0) then
      redis.call('HSET', key, '(queue) depth', pending)
    end
    redis.call('EXPIRE', key, retention_s)
  end
  for i = 8, 7 + count do
    redis.call('LPUSH', failures, string.format('{"at_ms": %d, ', now_ms) .. ARGV[i]:sub(2))
  end
  if count > 0 then
    redis.call('LTRIM', failures, 0, ARGV[3] - 1)
    redis.call('EXPIRE', failures, ARGV[4])
  end
  return false
end

local minutes, quarters = {}, {}
for minute = this_minute - ARGV[2] + 1, this_minute do
  minutes[#minutes + 1] = redis.call('HGETALL', minute_key(minute))
end
for quarter = this_quarter - ARGV[3] + 1, this_quarter do
  quarters[#quarters + 1] = redis.call('HGETALL', quarter_key(quarter))
end
return {string.format('%d', now_ms), minutes, redis.call('LRANGE', failures, 0, -1), quarters}
