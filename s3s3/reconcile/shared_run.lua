-- One step of a distributed reconcile; shared_run.py describes the keys.
-- KEYS[1]: prefix of the route's keys.  ARGV: command, reconcile id, then
--   start    options (JSON), '1' to discard an unfinished reconcile without live processes
--                                                    returns {id, options, started_ms, '1' if it is new}
--   acquire  worker, token, lease_ms                 returns {'range', after, until, shortfall}, {'wait'} or {'finished'}
--   commit   worker, token, lease_ms, after, position ('1' and the key; '0': the end of the range), counts (JSON: name to
--            number), errors (JSON: store to text), keys at which to split the rest
--                                                    returns {'range', shortfall}, {'lost'} or {'finished'}
--   renew    worker, token, lease_ms, after          returns 1, or 0 if another process has the range
--   release  worker, token, lease_ms, after          makes the range available
--   discard                                          unless a process has taken part
--   read                                             returns {fields, number of ranges left}
local prefix, command, id = KEYS[1], ARGV[1], ARGV[2]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local RETENTION_MS, LIVE_MS = 7 * 86400 * 1000, 30000

local function key(name) return prefix .. 'distributed:' .. id .. name end
local function text(number) return string.format('%d', number) end

local function record_heartbeat()
  redis.call('ZADD', key(':workers'), text(now), ARGV[3])
  for _, name in ipairs({'', ':ranges', ':leases', ':workers'}) do redis.call('PEXPIRE', key(name), RETENTION_MS) end
  redis.call('PEXPIRE', prefix .. 'distributed', RETENTION_MS)
end

-- Returns the end of a range of this worker, nil if another process has it.
local function owned(after)
  local range = redis.call('HGET', key(':ranges'), after)
  local token = range and string.match(range, '^(%S*) ')
  if token ~= ARGV[4] then return nil end
  return string.sub(range, #token + 2)
end

-- How many ranges without an owner are missing: there should be one for every second process.
local function shortfall()
  local free = redis.call('ZCOUNT', key(':leases'), '-inf', text(now))
  local alive = redis.call('ZCOUNT', key(':workers'), text(now - LIVE_MS), '+inf')
  return math.max(math.floor(alive / 2), 1) - free
end

local function put_range(after, last, token, due)
  redis.call('HSET', key(':ranges'), after, token .. ' ' .. last)
  redis.call('ZADD', key(':leases'), due, after)
end

if command == 'start' then
  local known = redis.call('GET', prefix .. 'distributed')
  if known then
    local own = id
    id = known
    local options, started, ended = unpack(redis.call('HMGET', key(''), 'options', 'started_ms', 'ended_ms'))
    if options and not ended then
      local alive = redis.call('ZCOUNT', key(':workers'), text(now - LIVE_MS), '+inf') > 0
      if alive or ARGV[4] ~= '1' then return {id, options, started, '0'} end
      redis.call('DEL', key(''), key(':ranges'), key(':leases'), key(':workers'))
    end
    id = own
  end
  redis.call('SET', prefix .. 'distributed', id, 'PX', RETENTION_MS)
  redis.call('HSET', key(''), 'options', ARGV[3], 'started_ms', text(now))
  redis.call('PEXPIRE', key(''), RETENTION_MS)
  put_range('', '', '', 0)
  return {id, ARGV[3], text(now), '1'}
elseif command == 'acquire' then
  if redis.call('HEXISTS', key(''), 'options') == 0 or redis.call('HEXISTS', key(''), 'ended_ms') == 1 then
    return {'finished'}
  end
  record_heartbeat()
  local after = redis.call('ZRANGEBYSCORE', key(':leases'), '-inf', text(now), 'LIMIT', 0, 1)[1]
  if not after then return {'wait'} end
  local last = string.match(redis.call('HGET', key(':ranges'), after), '^%S* (.*)$')
  put_range(after, last, ARGV[4], text(now + ARGV[5]))
  return {'range', after, last, shortfall()}
elseif command == 'commit' then
  local after, position = ARGV[6], ARGV[7]
  local last = owned(after)
  if not last then return {'lost'} end
  local counts, errors = cjson.decode(ARGV[8]), cjson.decode(ARGV[9])
  for name, count in pairs(counts) do redis.call('HINCRBY', key(''), name, text(count)) end
  for store, message in pairs(errors) do redis.call('HSETNX', key(''), 'error ' .. store, message) end
  redis.call('HDEL', key(':ranges'), after)
  redis.call('ZREM', key(':leases'), after)
  if string.sub(position, 1, 1) == '1' then
    local bounds = {string.sub(position, 2)}
    for i = 10, #ARGV do bounds[#bounds + 1] = ARGV[i] end
    bounds[#bounds + 1] = last
    put_range(bounds[1], bounds[2], ARGV[4], text(now + ARGV[5]))
    for i = 2, #bounds - 1 do put_range(bounds[i], bounds[i + 1], '', 0) end
  end
  record_heartbeat()
  if redis.call('ZCARD', key(':leases')) > 0 then return {'range', shortfall()} end
  redis.call('HSET', key(''), 'ended_ms', text(now))
  return {'finished'}
elseif command == 'renew' or command == 'release' then
  local after = ARGV[6]
  local last = owned(after)
  if not last then return 0 end
  if command == 'release' then
    put_range(after, last, '', 0)
    redis.call('ZREM', key(':workers'), ARGV[3])
  else
    put_range(after, last, ARGV[4], text(now + ARGV[5]))
    record_heartbeat()
  end
  return 1
end
if command == 'discard' then
  if redis.call('ZCARD', key(':workers')) == 0 then redis.call('DEL', key(''), key(':ranges'), key(':leases')) end
  return 0
end
return {redis.call('HGETALL', key('')), redis.call('ZCARD', key(':leases'))}
