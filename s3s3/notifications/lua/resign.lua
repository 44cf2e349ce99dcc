-- Ends the leadership of a channel, and wakes the other listeners with an empty checkpoint.
-- KEYS[1]  prefix of the route's keys
-- ARGV     listener
local leader_key, checkpoint_channel = KEYS[1] .. 'leader', KEYS[1] .. 'checkpoint'
local listener, no_leader = ARGV[1], ''

if redis.call('GET', leader_key) == listener then
  redis.call('DEL', leader_key)
  redis.call('PUBLISH', checkpoint_channel, no_leader)
end
