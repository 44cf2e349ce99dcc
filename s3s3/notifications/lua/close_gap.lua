-- Removes the recorded gap if it still has this generation. The generation is kept: no two gaps share one.
-- KEYS[1]  prefix of the route's keys
-- ARGV     generation
local gap_key, generation = KEYS[1] .. 'gap', ARGV[1]

if redis.call('HGET', gap_key, 'generation') == generation then
  redis.call('HDEL', gap_key, 'from_ms')
end
