-- What time alone brings about: retries and looks that are due, probes of open circuits, what waited for closed ones.
-- ARGV: all destinations, all stores (the source first), at most so many keys of each kind, probe_timeout_ms,
--       'STORE=COUNT ...': of what is parked there wake at most so many, and more after, ms
-- Returns {keys dealt with, milliseconds until the next is due, or -1}.
local all, stores, limit, probe_timeout_ms = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local bounds, wake_again_ms = {}, tonumber(ARGV[7])
for name, count in ARGV[6]:gmatch('([^ ]+)=(%d+)') do bounds[name] = tonumber(count) end
local source = each(stores)()
local dealt_with, next_ms = 0, nil

-- What has waited goes to the bulk lane: a destination that is back, or is slow, shall not hold up fresh notices.
local function wake(key, record)
  redis.call('ZREM', P .. 'waiting', key)
  if record.phase == 'waiting' then
    enqueue(key, 'bulk', record.want, '', record.noticed, record.tries, record.runs)
  end
  dealt_with = dealt_with + 1
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

-- While it is open, one key at a time shows whether the store is back. What is parked may long be done with by now.
local function probe(name)
  for _ = 1, limit do
    local key = redis.call('SPOP', P .. 'parked:' .. name)
    if not key then
      redis.call('DEL', P .. 'circuit:' .. name)
      return
    end
    local record = read(key)
    if record.phase == 'waiting' and (name == source or holds(record.want, name)) then
      redis.call('HSET', P .. 'circuit:' .. name, 'probe', key, 'probe_at', now + probe_timeout_ms)
      sooner(now + probe_timeout_ms)
      wake(key, record)
      return
    end
    dealt_with = dealt_with + 1
  end
end

for _, key in ipairs(due('waiting')) do wake(key, read(key)) end
for _, key in ipairs(due('looks')) do
  redis.call('ZREM', P .. 'looks', key)
  put(key, all, 'bulk', tostring(now), '', '')
  dealt_with = dealt_with + 1
end
for name in each(stores) do
  local since, probe_at, held = unpack(redis.call('HMGET', P .. 'circuit:' .. name, 'since', 'probe_at', 'held'))
  if not since then
    local parked, most = P .. 'parked:' .. name, math.min(bounds[name] or limit, limit)
    if most > 0 then
      for _, key in ipairs(redis.call('SPOP', parked, most)) do wake(key, read(key)) end
    end
    if bounds[name] and redis.call('EXISTS', parked) == 1 then sooner(now + wake_again_ms) end
  elseif not held then
    if tonumber(probe_at) <= now then probe(name) else sooner(tonumber(probe_at)) end
  end
end
return {dealt_with, next_ms or -1}
