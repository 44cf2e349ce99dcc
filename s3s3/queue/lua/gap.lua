-- The recorded gap; s3s3/notifications/pubsub.py describes the key.
-- ARGV: 'read', the listener that must not read it while another one leads ('': read it anyway), or
--       'heal', generation, destinations that are healed, all destinations of the route
-- read returns {1 if the start of the gap is known or else 0, its age in ms, generation, healed destinations}, or nil if
-- there is no gap. heal changes nothing if the gap has another generation by now.
local command, gap_key = ARGV[2], PREFIX .. 'gap'
local from_ms, generation, healed = unpack(redis.call('HMGET', gap_key, 'from_ms', 'generation', 'healed'))
if not from_ms then return false end
if command == 'read' then
  local leader = redis.call('GET', PREFIX .. 'leader')
  if ARGV[3] ~= '' and leader and leader ~= ARGV[3] then return false end
  return {from_ms ~= '0' and 1 or 0, math.max(now - from_ms, 0), generation, healed or ''}
end
if generation ~= ARGV[3] then return false end
healed = union(healed or '', ARGV[4])
for name in each(ARGV[5]) do
  if not contains(healed, name) then
    redis.call('HSET', gap_key, 'healed', healed)
    return false
  end
end
-- The generation is kept: no two gaps share one.
redis.call('HDEL', gap_key, 'from_ms', 'healed')
return false
