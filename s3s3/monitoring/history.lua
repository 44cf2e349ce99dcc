-- What became of a route's jobs, by minute; history.py says what the keys hold.
-- KEYS[1]: the route's prefix.  ARGV: a word, then
--   add    kept_s, failures to keep, failures kept_s, how many, as many failures (JSON objects), FIELD NUMBER ...
--   read   minutes; returns {now in ms, {FIELD NUMBER ...} for each minute, the oldest first, failures, the newest first}
local P, word = KEYS[1], ARGV[1]
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
local minute = math.floor(now_ms / 60000)
local function at(number) return string.format('%sminute:%d', P, number) end

if word == 'add' then
  local first = 6 + ARGV[5]
  if #ARGV >= first then
    for i = first, #ARGV, 2 do redis.call('HINCRBY', at(minute), ARGV[i], ARGV[i + 1]) end
    redis.call('EXPIRE', at(minute), ARGV[2])
  end
  for i = 6, 5 + ARGV[5] do
    redis.call('LPUSH', P .. 'failures', string.format('{"at_ms": %d, ', now_ms) .. ARGV[i]:sub(2))
  end
  if tonumber(ARGV[5]) > 0 then
    redis.call('LTRIM', P .. 'failures', 0, ARGV[3] - 1)
    redis.call('EXPIRE', P .. 'failures', ARGV[4])
  end
  return false
end

local minutes = {}
for number = minute - ARGV[2] + 1, minute do minutes[#minutes + 1] = redis.call('HGETALL', at(number)) end
return {string.format('%d', now_ms), minutes, redis.call('LRANGE', P .. 'failures', 0, -1)}
