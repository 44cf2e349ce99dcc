-- Records a gap with an unknown start, as Redis has lost data, unless a listener has recorded this loss already.
-- KEYS[1]  prefix of the route's keys
-- ARGV     id of the lost data
-- Returns 1 if it was recorded.
local gap_key, lost = KEYS[1] .. 'gap', ARGV[1]
if redis.call('HGET', gap_key, 'lost') == lost then return 0 end
redis.call('HSET', gap_key, 'from_ms', '0', 'lost', lost)
redis.call('HINCRBY', gap_key, 'generation', 1)
redis.call('HDEL', gap_key, 'healed')
return 1
