-- Advances the watermark and the checkpoint: every message before them is on the queue.
-- KEYS[1]  prefix of the route's keys
-- ARGV     listener, complete_from_ms, enqueued_to_ms, checkpoint, has_existed ('1' or '0'), token of the route's
--          fingerprint ('': not checked)
--
-- The leader has received every message from complete_from_ms on, and enqueued them up to enqueued_to_ms (Redis's
-- clock). has_existed: it has seen a watermark before.
-- Returns {result, gap_ms}, with result one of
--   advanced    there is no gap
--   first       there was no watermark yet
--   gap         no listener covered the gap_ms before complete_from_ms; recorded as a gap
--   data_loss   there was a watermark, and Redis has lost it; recorded as a gap with an unknown start
--   not_leader  another listener leads, or the route means something else by now; nothing was changed
local prefix = KEYS[1]
local listener, complete_from_ms, enqueued_to_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local checkpoint, has_existed = ARGV[4], ARGV[5] == '1'
local watermark_key, gap_key = prefix .. 'watermark', prefix .. 'gap'

-- A new generation for each gap: healing an earlier one must not close this one.
local function record_gap(from_ms)
  local earliest_ms = math.min(tonumber(redis.call('HGET', gap_key, 'from_ms')) or math.huge, from_ms)
  redis.call('HSET', gap_key, 'from_ms', string.format('%d', earliest_ms))
  redis.call('HINCRBY', gap_key, 'generation', 1)
  redis.call('HDEL', gap_key, 'healed')
end

local leader = redis.call('GET', prefix .. 'leader')
local token = redis.call('HGET', prefix .. 'fingerprint', 'token')
local is_superseded = ARGV[6] ~= '' and token and token ~= ARGV[6]
if is_superseded or (leader and leader ~= listener) then
  return {'not_leader', 0}
end

local result, gap_ms = 'advanced', 0
local watermark_ms = tonumber(redis.call('GET', watermark_key))
if not watermark_ms and has_existed then
  result = 'data_loss'
  record_gap(0)
elseif not watermark_ms then
  result = 'first'
elseif watermark_ms < complete_from_ms then
  result, gap_ms = 'gap', complete_from_ms - watermark_ms
  record_gap(watermark_ms)
end
redis.call('SET', watermark_key, string.format('%d', math.max(watermark_ms or 0, enqueued_to_ms)))
-- In the same step as the gap: the next leader drops what precedes the checkpoint, even if this one never received it.
redis.call('SET', prefix .. 'checkpoint', checkpoint)
return {result, gap_ms}
