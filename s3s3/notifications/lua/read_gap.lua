-- Returns {is_start_known (1 or 0), age_ms, generation} of the recorded gap; nil if there is none.
-- KEYS[1]  prefix of the route's keys
local from_ms, generation = unpack(redis.call('HMGET', KEYS[1] .. 'gap', 'from_ms', 'generation'))
if not from_ms then
  return false
end
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
local is_start_known = from_ms ~= '0'
return {is_start_known and 1 or 0, math.max(now_ms - from_ms, 0), generation}
