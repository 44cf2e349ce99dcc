-- Queues what is due: retries, rechecks, probes of open circuits, and keys parked for a circuit that is closed now.
-- ARGV: all destinations, all stores (the source first), maximum of keys of each kind, probe timeout in ms,
--       'STORE=COUNT ...' (maximum of keys parked for that store), ms after which more of those may be queued.
-- Returns {keys handled, ms until the next is due or -1}.
local all_destinations, stores, limit, probe_timeout_ms = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local parked_limits, parked_interval_ms = {}, tonumber(ARGV[7])
for store, count in ARGV[6]:gmatch('([^ ]+)=(%d+)') do parked_limits[store] = tonumber(count) end
local source = each(stores)()
local handled, next_ms = 0, nil
local PROBE_CANDIDATES = 20

-- Always in the bulk lane: a store that is slow or has just recovered must not delay fresh notifications.
local function queue_waiting(key, record)
  redis.call('ZREM', PREFIX .. 'retries', key)
  if record.phase == 'waiting' then
    write_queued(key, 'bulk', record.destinations, '', record.notified_ms, record.attempts, record.trackers)
  end
  handled = handled + 1
end

local function run_again_at(time_ms)
  next_ms = math.min(next_ms or math.huge, math.max(time_ms - now, 0))
end

local function due_keys(set)
  local keys = redis.call('ZRANGEBYSCORE', PREFIX .. set, '-inf', now, 'LIMIT', 0, limit)
  local first = redis.call('ZRANGEBYSCORE', PREFIX .. set, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  if first[2] then run_again_at(tonumber(first[2])) end
  return keys
end

-- Return a parked key that has not been tried, else the one with the oldest failure among some, and its record. One
-- object that always fails must not be every probe. Keys that no longer wait are removed.
local function least_recently_failed(store)
  local parked, chosen, chosen_record, chosen_ms = PREFIX .. 'parked:' .. store, nil, nil, math.huge
  for _, key in ipairs(redis.call('SRANDMEMBER', parked, PROBE_CANDIDATES)) do
    local record = read_record(key)
    if record.phase == 'waiting' and (store == source or contains(record.destinations, store)) then
      local failed_ms = tonumber(record.failed_ms) or 0
      if failed_ms < chosen_ms then chosen, chosen_record, chosen_ms = key, record, failed_ms end
    else
      redis.call('SREM', parked, key)
      handled = handled + 1
    end
  end
  return chosen, chosen_record
end

-- Queue one parked key that shows whether the store is back.
local function start_probe(store)
  local parked = PREFIX .. 'parked:' .. store
  while handled < limit do
    local key, record = least_recently_failed(store)
    if key then
      local timeout_at = now + probe_timeout_ms
      redis.call('SREM', parked, key)
      redis.call('HSET', PREFIX .. 'circuit:' .. store, 'probe', key, 'probe_at', timeout_at)
      run_again_at(timeout_at)
      queue_waiting(key, record)
      return
    elseif redis.call('EXISTS', parked) == 0 then
      redis.call('DEL', PREFIX .. 'circuit:' .. store)
      return
    end
  end
end

local function queue_parked(store)
  local parked = PREFIX .. 'parked:' .. store
  local count = math.min(parked_limits[store] or limit, limit)
  if count > 0 then
    for _, key in ipairs(redis.call('SPOP', parked, count)) do queue_waiting(key, read_record(key)) end
  end
  if parked_limits[store] and redis.call('EXISTS', parked) == 1 then run_again_at(now + parked_interval_ms) end
end

for _, key in ipairs(due_keys('retries')) do queue_waiting(key, read_record(key)) end
for _, key in ipairs(due_keys('rechecks')) do
  redis.call('ZREM', PREFIX .. 'rechecks', key)
  enqueue(key, all_destinations, 'bulk', tostring(now), '', '')
  handled = handled + 1
end
for store in each(stores) do
  local since, probe_at, paused = unpack(redis.call('HMGET', PREFIX .. 'circuit:' .. store, 'since', 'probe_at',
                                                    'paused'))
  if not since then
    queue_parked(store)
  elseif not paused then
    if tonumber(probe_at) <= now then start_probe(store) else run_again_at(tonumber(probe_at)) end
  end
end
return {handled, next_ms or -1}
