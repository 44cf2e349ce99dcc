-- A run that several processes share; ranges.py says what the keys hold.
-- KEYS[1]: what every key of the route begins with.  ARGV: a word, the run's id, then
--   begin   options (JSON), '1' to forget a run that was broken off    returns {id, options, began_ms, '1' if it is new}
--   take    worker, token, lease_ms                 returns {'range', after, until, wanting}, {'wait'} or {'ended'}
--   go_on   worker, token, lease_ms, after, position ('1' before it; '0' alone: the range's end), counts (JSON: names
--           and numbers in turn), errors (JSON: stores and texts in turn), names at which to cut the rest
--                                                   returns {'range', wanting}, {'lost'} or {'ended'}
--   renew   worker, token, lease_ms, after          returns 1, or 0 where the range is somebody else's
--   leave   worker, token, lease_ms, after          gives a range back
--   forget                                          unless anybody took part
--   state                                           returns {fields, ranges left}
local prefix, word, id = KEYS[1], ARGV[1], ARGV[2]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local KEPT_MS, SILENT_MS = 7 * 86400 * 1000, 30000

local function at(name) return prefix .. 'distributed:' .. id .. name end
local function text(number) return string.format('%d', number) end

local function worker_seen()
  redis.call('ZADD', at(':workers'), text(now), ARGV[3])
  for _, name in ipairs({'', ':ranges', ':leases', ':workers'}) do redis.call('PEXPIRE', at(name), KEPT_MS) end
  redis.call('PEXPIRE', prefix .. 'distributed', KEPT_MS)
end

local function owned(after)
  local held = redis.call('HGET', at(':ranges'), after)
  local token = held and string.match(held, '^(%S*) ')
  if token ~= ARGV[4] then return nil end
  return string.sub(held, #token + 2)
end

-- How many ranges there are too few: one in store for every other process, so that whoever comes for one finds one.
local function wanting()
  local free = redis.call('ZCOUNT', at(':leases'), '-inf', text(now))
  local alive = redis.call('ZCOUNT', at(':workers'), text(now - SILENT_MS), '+inf')
  return math.max(math.floor(alive / 2), 1) - free
end

local function put_range(after, before, token, due)
  redis.call('HSET', at(':ranges'), after, token .. ' ' .. before)
  redis.call('ZADD', at(':leases'), due, after)
end

if word == 'begin' then
  local known = redis.call('GET', prefix .. 'distributed')
  if known then
    local own = id
    id = known
    local options, began, ended = unpack(redis.call('HMGET', at(''), 'options', 'began_ms', 'ended_ms'))
    if options and not ended then
      local alive = redis.call('ZCOUNT', at(':workers'), text(now - SILENT_MS), '+inf') > 0
      if alive or ARGV[4] ~= '1' then return {id, options, began, '0'} end
      redis.call('DEL', at(''), at(':ranges'), at(':leases'), at(':workers'))
    end
    id = own
  end
  redis.call('SET', prefix .. 'distributed', id, 'PX', KEPT_MS)
  redis.call('HSET', at(''), 'options', ARGV[3], 'began_ms', text(now))
  redis.call('PEXPIRE', at(''), KEPT_MS)
  put_range('', '', '', 0)
  return {id, ARGV[3], text(now), '1'}
elseif word == 'take' then
  if redis.call('HEXISTS', at(''), 'options') == 0 or redis.call('HEXISTS', at(''), 'ended_ms') == 1 then
    return {'ended'}
  end
  worker_seen()
  local after = redis.call('ZRANGEBYSCORE', at(':leases'), '-inf', text(now), 'LIMIT', 0, 1)[1]
  if not after then return {'wait'} end
  local before = string.match(redis.call('HGET', at(':ranges'), after), '^%S* (.*)$')
  put_range(after, before, ARGV[4], text(now + ARGV[5]))
  return {'range', after, before, wanting()}
elseif word == 'go_on' then
  local after, position = ARGV[6], ARGV[7]
  local before = owned(after)
  if not before then return {'lost'} end
  local counts, errors = cjson.decode(ARGV[8]), cjson.decode(ARGV[9])
  for i = 1, #counts, 2 do redis.call('HINCRBY', at(''), counts[i], text(counts[i + 1])) end
  for i = 1, #errors, 2 do redis.call('HSETNX', at(''), 'error ' .. errors[i], errors[i + 1]) end
  redis.call('HDEL', at(':ranges'), after)
  redis.call('ZREM', at(':leases'), after)
  if string.sub(position, 1, 1) == '1' then
    local bounds = {string.sub(position, 2)}
    for i = 10, #ARGV do bounds[#bounds + 1] = ARGV[i] end
    bounds[#bounds + 1] = before
    put_range(bounds[1], bounds[2], ARGV[4], text(now + ARGV[5]))
    for i = 2, #bounds - 1 do put_range(bounds[i], bounds[i + 1], '', 0) end
  end
  worker_seen()
  if redis.call('ZCARD', at(':leases')) > 0 then return {'range', wanting()} end
  redis.call('HSET', at(''), 'ended_ms', text(now))
  return {'ended'}
elseif word == 'renew' or word == 'leave' then
  local after = ARGV[6]
  local before = owned(after)
  if not before then return 0 end
  if word == 'leave' then
    put_range(after, before, '', 0)
    redis.call('ZREM', at(':workers'), ARGV[3])
  else
    put_range(after, before, ARGV[4], text(now + ARGV[5]))
    worker_seen()
  end
  return 1
end
if word == 'forget' then
  if redis.call('ZCARD', at(':workers')) == 0 then redis.call('DEL', at(''), at(':ranges'), at(':leases')) end
  return 0
end
return {redis.call('HGETALL', at('')), redis.call('ZCARD', at(':leases'))}
