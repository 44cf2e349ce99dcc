-- Register processes and their heartbeats, and what the route means to them; heartbeat.py documents the keys.
-- KEYS[1]: the route's prefix.  ARGV: a command, then
--   register    id ('' for no heartbeat), info (JSON), retention_s, mode ('start', 'take-over', 'verify', 'beat'),
--               token for a new fingerprint, ms after which a process counts as silent, name of the source
--               returns one of
--                 {'ok', token, what was replaced ('' or source, channel, destinations), previous fingerprint}
--                 {'conflict', info of a running process to which the route means something else}
--                 {'pending', recorded fingerprint, number of jobs and dead letters for its buckets}
--                 {'superseded', recorded fingerprint}
--   deregister  id
--   list        returns {id, info, age of the heartbeat in ms, ...}
local prefix, command, id = KEYS[1], ARGV[1], ARGV[2]
local processes, infos, route = prefix .. 'processes', prefix .. 'processes:info', prefix .. 'fingerprint'
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function text(number) return string.format('%d', number) end

local function remove(process)
  redis.call('ZREM', processes, process)
  redis.call('HDEL', infos, process)
end

-- Two fingerprints may differ in the destinations that only one of them has.
local function destinations_conflict(one, other)
  for name, place in pairs(one.destinations) do
    if other.destinations[name] and other.destinations[name] ~= place then return true end
  end
  return false
end

local function buckets_conflict(one, other)
  return one.source ~= other.source or destinations_conflict(one, other)
end

-- The channel is null in a process that does not listen.
local function channels_conflict(one, other)
  return type(one.channel) == 'string' and type(other.channel) == 'string' and one.channel ~= other.channel
end

local function conflict(one, other) return channels_conflict(one, other) or buckets_conflict(one, other) end

-- A process in conflict with the recorded fingerprint is superseded, and does not count.
local function running_conflict(own, recorded, silent_ms)
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', processes, text(now_ms - silent_ms), '+inf')) do
    local info = other ~= id and redis.call('HGET', infos, other)
    local found = info and cjson.decode(info).fingerprint
    if type(found) == 'table' and conflict(own, found) and not (recorded and conflict(found, recorded)) then
      return info
    end
  end
end

local function count_pending(recorded, source_name)
  local count = redis.call('ZCARD', prefix .. 'retries') + redis.call('ZCARD', prefix .. 'rechecks')
  for _, lane in ipairs({'fresh', 'bulk'}) do count = count + redis.call('XLEN', prefix .. lane) end
  count = count + redis.call('SCARD', prefix .. 'parked:' .. source_name)
  for name in pairs(recorded.destinations) do
    count = count + redis.call('SCARD', prefix .. 'parked:' .. name)
    count = count + redis.call('HLEN', prefix .. 'dead-letters:' .. name)
  end
  return count
end

-- What is known of the old source or channel does not apply to the new one.
local function forget(replaced)
  redis.call('DEL', prefix .. 'reconcile')
  if replaced == 'destinations' then return end
  redis.call('DEL', prefix .. 'leader', prefix .. 'watermark', prefix .. 'checkpoint', prefix .. 'server',
             prefix .. 'data')
  redis.call('HDEL', prefix .. 'gap', 'from_ms', 'healed')
  if replaced == 'channel' then -- messages on the new channel may have been missed: compare everything
    redis.call('HSET', prefix .. 'gap', 'from_ms', '0')
    redis.call('HINCRBY', prefix .. 'gap', 'generation', 1)
  end
end

-- Whether a running process has this destination, or keys of it are left.
local function is_used(name, silent_ms)
  if redis.call('EXISTS', prefix .. 'parked:' .. name, prefix .. 'dead-letters:' .. name) > 0 then return true end
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', processes, text(now_ms - silent_ms), '+inf')) do
    local info = other ~= id and redis.call('HGET', infos, other)
    local found = info and cjson.decode(info).fingerprint
    if type(found) == 'table' and found.destinations[name] then return true end
  end
  return false
end

-- Record the fingerprint. Returns the token, what was replaced, and the fingerprint before.
local function record(own, recorded_text, recorded, token, mode, silent_ms)
  local known, replaced = redis.call('HGET', route, 'token'), ''
  local destinations, channel, has_changed = {}, own.channel, not recorded
  if recorded and type(channel) ~= 'string' then channel = recorded.channel end
  has_changed = has_changed or channel ~= recorded.channel
  if recorded and conflict(own, recorded) then
    replaced = own.source ~= recorded.source and 'source'
               or channels_conflict(own, recorded) and 'channel' or 'destinations'
  end
  if recorded and own.source == recorded.source then
    for name, place in pairs(recorded.destinations) do
      if own.destinations[name] or mode == 'beat' or is_used(name, silent_ms) then
        destinations[name] = place
      else
        has_changed = true
      end
    end
  end
  for name, place in pairs(own.destinations) do
    has_changed = has_changed or destinations[name] ~= place
    destinations[name] = place
  end
  if not known or replaced ~= '' then known = token end
  if has_changed or replaced ~= '' then
    local merged = {source = own.source, channel = channel, destinations = destinations}
    redis.call('HSET', route, 'fingerprint', cjson.encode(merged), 'token', known)
  end
  if replaced ~= '' then forget(replaced) end
  return known, replaced, recorded_text or ''
end

local function register()
  local info, retention_s, mode, token, silent_ms, source_name = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
  local own = cjson.decode(info).fingerprint
  if type(own) ~= 'table' then mode = '' end
  local recorded_text = redis.call('HGET', route, 'fingerprint')
  local recorded = recorded_text and cjson.decode(recorded_text)
  local reply = {'ok', '', '', ''}
  if mode == 'beat' and recorded and conflict(own, recorded) then
    reply = {'superseded', recorded_text}
  elseif mode == 'start' or mode == 'verify' then
    local other = running_conflict(own, recorded, silent_ms)
    if other then return {'conflict', other} end
    if recorded and buckets_conflict(own, recorded) then
      local count = count_pending(recorded, source_name)
      if count > 0 then return {'pending', recorded_text, count} end
    end
  end
  if mode ~= '' and mode ~= 'verify' and reply[1] == 'ok' then 
    reply = {'ok', record(own, recorded_text, recorded, token, mode, silent_ms)}
  end
  if id ~= '' then
    local oldest_ms = text(now_ms - retention_s * 1000)
    for _, expired in ipairs(redis.call('ZRANGEBYSCORE', processes, '-inf', '(' .. oldest_ms)) do remove(expired) end
    redis.call('ZADD', processes, text(now_ms), id)
    redis.call('HSET', infos, id, info)
    redis.call('EXPIRE', processes, retention_s)
    redis.call('EXPIRE', infos, retention_s)
  end
  return reply
end

if command == 'register' then
  return register()
elseif command == 'deregister' then
  remove(id)
  return false
end
local found, scores = {}, redis.call('ZRANGE', processes, 0, -1, 'WITHSCORES')
for i = 1, #scores, 2 do
  local info = redis.call('HGET', infos, scores[i])
  if info then
    for _, part in ipairs({scores[i], info, now_ms - scores[i + 1]}) do found[#found + 1] = part end
  end
end
return found
