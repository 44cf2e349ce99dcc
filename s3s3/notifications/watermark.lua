-- The state of a route's ear; ear.py says what the keys hold.
-- KEYS[1]: the route's prefix.  ARGV: a word, the listener's id, then
--   lead       lease_ms, mark, covered_from_ms, insists
--                                                  take or keep the ear; returns 1 while it is ours, with the mark sent to
--                                                  all listeners; -1 where it is free, but who takes it would leave a gap
--                                                  that others may not: they come first, unless it insists; and 1 where
--                                                  the route was heard before, by whomever
--   leave                                          let go of the ear, and tell all listeners
--   marked                                         returns the last mark before which everything is on the queue
--   time                                           returns Redis's time, ms
--   heard      covered_from_ms, heard_to_ms, seen, mark
--                                                  all up to heard_to_ms, and before the mark, is on the queue; returns
--                                                  '' | 'first' | 'gap'
--   gap                                            returns how long ago the gap began, ms (-1: nothing is known), and
--                                                  its generation; nil where there is none
--   healed     generation                          the gap of that generation is healed
local P, word, id = KEYS[1], ARGV[1], ARGV[2]
local ear, watermark, gap, marked = P .. 'ear', P .. 'watermark', P .. 'gap', P .. 'marked'

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function is_ours()
  local holder = redis.call('GET', ear)
  return not holder or holder == id
end

-- Each gap makes a new generation, so that whoever heals one does not take another for healed.
local function leave_gap(from_ms)
  local known = tonumber(redis.call('HGET', gap, 'from_ms'))
  redis.call('HSET', gap, 'from_ms', string.format('%d', math.min(known or math.huge, from_ms)))
  redis.call('HINCRBY', gap, 'generation', 1)
end

if word == 'lead' then
  local heard_to_ms = tonumber(redis.call('GET', watermark))
  local heard = heard_to_ms and 1 or 0
  if not is_ours() then return {0, heard} end
  if ARGV[6] == '0' and redis.call('EXISTS', ear) == 0 and heard_to_ms and heard_to_ms < tonumber(ARGV[5])
      and redis.call('PUBSUB', 'NUMSUB', P .. 'mark')[2] > 1 then
    return {-1, heard}
  end
  redis.call('SET', ear, id, 'PX', ARGV[3])
  redis.call('PUBLISH', P .. 'mark', ARGV[4])
  return {1, heard}
elseif word == 'leave' then
  if redis.call('GET', ear) == id then
    redis.call('DEL', ear)
    redis.call('PUBLISH', P .. 'mark', '')
  end
  return 0
elseif word == 'marked' then
  return redis.call('GET', marked) or ''
elseif word == 'heard' then
  if not is_ours() then return '' end
  local covered_from_ms, heard_to_ms, answer = tonumber(ARGV[3]), tonumber(ARGV[4]), ''
  local before_ms = tonumber(redis.call('GET', watermark))
  if not before_ms and ARGV[5] == '1' then
    -- It was there once: Redis has lost what it knew, and the queue with it.
    leave_gap(0)
    answer = 'gap'
  elseif not before_ms then
    answer = 'first'
  elseif before_ms < covered_from_ms then
    leave_gap(before_ms)
    answer = 'gap'
  end
  redis.call('SET', watermark, string.format('%d', math.max(before_ms or 0, heard_to_ms)))
  -- With the gap, if there is one: what this listener has not heard, nobody may take for put without a trace.
  redis.call('SET', marked, ARGV[6])
  return answer
elseif word == 'time' then
  return now
elseif word == 'gap' then
  local found = redis.call('HMGET', gap, 'from_ms', 'generation')
  if not found[1] then return false end
  return {found[1] == '0' and -1 or math.max(now - found[1], 0), found[2]}
elseif word == 'healed' then
  if redis.call('HGET', gap, 'generation') == ARGV[3] then redis.call('HDEL', gap, 'from_ms') end
  return 0
end
