-- Takes or renews the leadership of a channel, and publishes a new checkpoint to all its listeners.
-- KEYS[1]  prefix of the route's keys
-- ARGV     listener, lease_ms, checkpoint, complete_from_ms, may_leave_gap ('1' or '0'), token of the route's
--          fingerprint ('': not checked)
--
-- complete_from_ms: time (Redis's clock) from which this listener has received every message.
-- Returns {state, watermark (0: none), enqueued_checkpoint, id of the route's data ('': none)}, with state one of
--   leader    elected or renewed
--   follower  another listener leads, or the route means something else by now
--   deferred  there is no leader, but this listener lacks messages published since the watermark, which other
--             listeners may have; they go first, unless may_leave_gap
local prefix = KEYS[1]
local listener, lease_ms, checkpoint = ARGV[1], ARGV[2], ARGV[3]
local complete_from_ms, may_leave_gap = tonumber(ARGV[4]), ARGV[5] == '1'
local leader_key, checkpoint_channel = prefix .. 'leader', prefix .. 'checkpoint'

local leader = redis.call('GET', leader_key)
local watermark_ms = tonumber(redis.call('GET', prefix .. 'watermark'))
local watermark = string.format('%d', watermark_ms or 0)

local token = redis.call('HGET', prefix .. 'fingerprint', 'token')
local data = redis.call('GET', prefix .. 'data') or ''
if ARGV[6] ~= '' and token and token ~= ARGV[6] then
  return {'follower', '0', '', ''}
elseif leader and leader ~= listener then
  return {'follower', watermark, '', data}
end
local would_leave_gap = not leader and watermark_ms and watermark_ms < complete_from_ms
if would_leave_gap and not may_leave_gap then
  local listeners = redis.call('PUBSUB', 'NUMSUB', checkpoint_channel)[2]
  if listeners > 1 then
    return {'deferred', watermark, '', data}
  end
end
redis.call('SET', leader_key, listener, 'PX', lease_ms)
redis.call('PUBLISH', checkpoint_channel, checkpoint)
return {'leader', watermark, redis.call('GET', prefix .. 'checkpoint') or '', data}
