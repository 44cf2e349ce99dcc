-- What time alone brings about: retries and looks that are due, probes of open circuits, what waited for closed ones.
-- ARGV: all destinations, all circuits, at most so many keys of each kind, probe_timeout_ms
-- Returns {keys moved, milliseconds until the next is due, or -1}.
local all, circuits, limit, probe_timeout_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local moved, next_ms = 0, nil

local function wake(key)
  local record = read(key)
  if record.phase ~= 'waiting' then return end
  redis.call('ZREM', P .. 'waiting', key)
  enqueue(key, record.lane, record.want, '', record.noticed, record.tries, record.runs)
  moved = moved + 1
end

local function sooner(at_ms)
  next_ms = math.min(next_ms or math.huge, math.max(at_ms - now, 0))
end

local function due(set)
  local keys = redis.call('ZRANGEBYSCORE', P .. set, '-inf', now, 'LIMIT', 0, limit)
  local first = redis.call('ZRANGEBYSCORE', P .. set, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  if first[2] then sooner(tonumber(first[2])) end
  return keys
end

-- While it is open, one key at a time shows whether the destination is back.
local function probe(name)
  local key = redis.call('SRANDMEMBER', P .. 'parked:' .. name)
  if not key then
    redis.call('DEL', P .. 'circuit:' .. name)
    return
  end
  redis.call('SREM', P .. 'parked:' .. name, key)
  redis.call('HSET', P .. 'circuit:' .. name, 'probe', key, 'probe_at', now + probe_timeout_ms)
  wake(key)
end

for _, key in ipairs(due('waiting')) do wake(key) end
for _, key in ipairs(due('looks')) do
  redis.call('ZREM', P .. 'looks', key)
  put(key, all, 'bulk', tostring(now), '', '')
  moved = moved + 1
end
for name in circuits:gmatch('%S+') do
  local circuit = redis.call('HMGET', P .. 'circuit:' .. name, 'since', 'probe_at', 'held')
  if circuit[1] then
    if not circuit[3] then
      if tonumber(circuit[2]) <= now then probe(name) else sooner(tonumber(circuit[2])) end
    end
  else
    for _, key in ipairs(redis.call('SPOP', P .. 'parked:' .. name, limit)) do wake(key) end
  end
end
return {moved, next_ms or -1}
