-- Advances the watermark and the checkpoint: every message before them is on the queue.
-- KEYS[1]  prefix of the route's keys
-- ARGV     listener, complete_from_ms, enqueued_to_ms, checkpoint, seen_ms, token of the route's fingerprint ('': not
--          checked), id of the data that it has seen ('': none)
--
-- The leader has received every message from complete_from_ms on, and enqueued them up to enqueued_to_ms (Redis's
-- clock). Both are '' for a route without a channel. seen_ms: the latest watermark that it has seen; 0 for none.
-- Returns {result, gap_ms, watermark, id of the data ('' for not_leader)}, with result one of
--   advanced    there is no gap
--   first       there was no watermark yet
--   gap         no listener covered the gap_ms before complete_from_ms; recorded as a gap
--   data_loss   there was a later watermark, and Redis has lost it; recorded as a gap with an unknown start
--   restart     without a channel: the server was restarted or replaced, and may have lost the last jobs; recorded as
--               a gap since the watermark. With a channel, the subscription has ended, too, which leaves a gap
--   not_leader  another listener leads, or the route means something else by now; nothing was changed
local prefix = KEYS[1]
local listener, complete_from_ms, enqueued_to_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local checkpoint, seen_ms = ARGV[4], tonumber(ARGV[5])
local watermark_key, gap_key = prefix .. 'watermark', prefix .. 'gap'

-- A new generation for each gap: healing an earlier one must not close this one.
local function record_gap(from_ms)
  local earliest_ms = math.min(tonumber(redis.call('HGET', gap_key, 'from_ms')) or math.huge, from_ms)
  redis.call('HSET', gap_key, 'from_ms', string.format('%d', earliest_ms))
  redis.call('HINCRBY', gap_key, 'generation', 1)
  redis.call('HDEL', gap_key, 'healed')
end

-- The id of the server's run; nil if its user may not read it.
local function read_server()
  local info = redis.pcall('INFO', 'server')
  return type(info) == 'string' and info:match('run_id:(%x+)') or nil
end

local leader = redis.call('GET', prefix .. 'leader')
local token = redis.call('HGET', prefix .. 'fingerprint', 'token')
local is_superseded = ARGV[6] ~= '' and token and token ~= ARGV[6]
if is_superseded or (leader and leader ~= listener) then
  return {'not_leader', 0, 0, ''}
end

local result, gap_ms = 'advanced', 0
local watermark_ms = tonumber(redis.call('GET', watermark_key))
local server = not complete_from_ms and read_server()
if not enqueued_to_ms then
  local clock = redis.call('TIME')
  enqueued_to_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
end
if (watermark_ms or 0) < seen_ms then
  result = 'data_loss'
  record_gap(0)
  redis.call('HSET', gap_key, 'lost', ARGV[7])
elseif not watermark_ms then
  result = 'first'
elseif complete_from_ms and watermark_ms < complete_from_ms then
  result, gap_ms = 'gap', complete_from_ms - watermark_ms
  record_gap(watermark_ms)
elseif server and (redis.call('GET', prefix .. 'server') or server) ~= server then
  result = 'restart'
  record_gap(watermark_ms)
end
if server then redis.call('SET', prefix .. 'server', server) end
redis.call('SET', prefix .. 'data', listener .. ':' .. string.format('%d', enqueued_to_ms), 'NX')
local new_ms = string.format('%d', math.max(watermark_ms or 0, enqueued_to_ms))
redis.call('SET', watermark_key, new_ms)
-- In the same step as the gap: the next leader drops what precedes the checkpoint, even if this one never received it.
redis.call('SET', prefix .. 'checkpoint', checkpoint)
return {result, gap_ms, new_ms, redis.call('GET', prefix .. 'data')}
