-- ARGV: consumer, token prefix, free slots, bulk slots to fill before fresh jobs, maximum of bulk slots,
--       lease in ms, '1' to take over expired claims too, all stores (the source first),
--       token of the route's fingerprint ('' for no check),
--       then for each entry that a blocking read delivered: lane, entry, key.
-- Returns {jobs, open circuits, 1 if the route is paused or means something else by now, 1 if expired claims may be
-- left}. A job is {key, destinations, lane, entry, token, unconditional, notified_ms, attempts, trackers, stores that
-- work}; a circuit is {store, reason, key that probes it or ''}.
local consumer, token_prefix = ARGV[2], ARGV[3]
local free, min_bulk, max_bulk = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local lease_ms, with_expired, stores = tonumber(ARGV[7]), ARGV[8] == '1', ARGV[9]
local route_token, FIRST_DELIVERED = ARGV[10], 11
local IDLE_CONSUMER_KEPT_MS = 60 * lease_ms
local MAX_READS = 50 -- of a lane full of obsolete entries: Redis runs nothing else meanwhile
local jobs = {}

-- Stores at which a key succeeded after this time: another key, since this one has failed.
local function succeeded_since(failed_ms)
  local names, found = {}, redis.call('HGETALL', PREFIX .. 'successes')
  for i = 1, #found, 2 do
    if tonumber(found[i + 1]) > failed_ms then names[#names + 1] = found[i] end
  end
  return table.concat(names, ' ')
end

local function start(key, record, unconditional)
  local token = token_prefix .. '.' .. (#jobs + 1)
  redis.call('HSET', job_key(key), 'phase', 'running', 'token', token)
  jobs[#jobs + 1] = {key, record.destinations, record.lane, record.entry, token, unconditional, record.notified_ms,
                     record.attempts, record.trackers,
                     record.failed_ms ~= '' and succeeded_since(tonumber(record.failed_ms)) or ''}
end

-- Start the job if this is the record's own entry and still queued; return whether it is. Drop an obsolete entry.
local function claim(lane, entry, key)
  local record = read_record(key)
  local is_own = record.lane == lane and record.entry == entry
  if is_own and record.phase == 'queued' then
    start(key, record, record.unconditional)
    return true
  elseif not (is_own and record.phase == 'running') then
    delete_entry(lane, entry)
  end
  return false
end

-- XCLAIM restarts the idle time, so the lease runs from this claim and not from the delivery.
local function claim_delivered()
  for i = FIRST_DELIVERED, #ARGV, 3 do
    local lane, entry, key = ARGV[i], ARGV[i + 1], ARGV[i + 2]
    if claim(lane, entry, key) then redis.call('XCLAIM', PREFIX .. lane, GROUP, consumer, 0, entry, 'JUSTID') end
  end
end

-- Queue delivered entries again, for other processes.
local function return_delivered()
  for i = FIRST_DELIVERED, #ARGV, 3 do
    local lane, entry, key = ARGV[i], ARGV[i + 1], ARGV[i + 2]
    local record = read_record(key)
    local is_own = record.lane == lane and record.entry == entry
    if is_own and record.phase == 'queued' then
      write_queued(key, lane, record.destinations, record.unconditional, record.notified_ms, record.attempts,
                   record.trackers)
    end
    if not (is_own and record.phase == 'running') then delete_entry(lane, entry) end
  end
end

local function claim_new(lane, count)
  local before = #jobs
  for _ = 1, MAX_READS do
    if #jobs - before >= count then return end
    local streams = redis.call('XREADGROUP', 'GROUP', GROUP, consumer, 'COUNT', count - (#jobs - before),
                               'STREAMS', PREFIX .. lane, '>')
    if not streams then return end
    for _, entry in ipairs(streams[1][2]) do claim(lane, entry[1], entry[2][2]) end
  end
end

local function take_over_entry(lane, id)
  local entry = redis.call('XRANGE', PREFIX .. lane, id, id)[1]
  if not entry then
    redis.call('XACK', PREFIX .. lane, GROUP, id) -- XAUTOCLAIM of Redis 6.2 returns deleted entries, too
    return
  end
  local key = entry[2][2]
  local record = read_record(key)
  if record.phase == 'running' and record.lane == lane and record.entry == id then
    -- The former owner may have written already, and its last PUT may still be in flight.
    schedule_recheck(key)
    start(key, record, '')
  else
    claim(lane, id, key)
  end
end

-- Returns whether expired claims may be left.
local function take_over(lane)
  local cursor = '0-0'
  repeat
    if #jobs >= free then return true end
    local page = redis.call('XAUTOCLAIM', PREFIX .. lane, GROUP, consumer, lease_ms, cursor, 'COUNT', free - #jobs,
                            'JUSTID')
    cursor = page[1]
    for _, id in ipairs(page[2]) do take_over_entry(lane, id) end
  until cursor == '0-0'
  return false
end

-- A killed process leaves its consumer behind. Without pending claims it can be deleted.
-- pcall: the stream of a lane may be missing; the next claim with a free slot for that lane creates it.
local function delete_idle_consumers(lane)
  for _, info in ipairs(redis.pcall('XINFO', 'CONSUMERS', PREFIX .. lane, GROUP)) do
    local name, pending, idle_ms = info[2], info[4], info[6]
    if pending == 0 and idle_ms > IDLE_CONSUMER_KEPT_MS then
      redis.call('XGROUP', 'DELCONSUMER', PREFIX .. lane, GROUP, name)
    end
  end
end

local function claim_expired()
  local more = false
  for _, lane in ipairs({'fresh', 'bulk'}) do
    more = take_over(lane) or more
    delete_idle_consumers(lane)
  end
  return more
end

local function claim_queued()
  local before = #jobs
  claim_new('bulk', math.min(min_bulk, free - #jobs))
  local bulk = #jobs - before
  claim_new('fresh', free - #jobs)
  claim_new('bulk', math.min(max_bulk - bulk, free - #jobs))
end

-- Returns the key of a job of this claim that uses the store: the first that has not failed, else the first. Never
-- `excluded`.
local function job_for(store, is_source, excluded)
  local found
  for _, claimed in ipairs(jobs) do
    local key, destinations, attempts = claimed[1], claimed[2], claimed[8]
    if key ~= excluded and (is_source or contains(destinations, store)) then
      if attempts == '' then return key end
      found = found or key
    end
  end
  return found
end

-- A probe that is not running (still queued, or finished without a result) is replaced by a job of this claim.
-- Queued behind a long lane, it would delay the recovery of the store. While all failures are of one key, another key
-- does not wait for the next probe: that one object may be the cause.
local function choose_probe(store, probe, only_key, is_source)
  if not probe and not only_key then return '' end
  if probe and read_record(probe).phase == 'running' then return probe end
  local key = job_for(store, is_source, not probe and only_key)
  if not key then return probe or '' end
  redis.call('HSET', PREFIX .. 'circuit:' .. store, 'probe', key, 'probe_at', now + lease_ms)
  return key
end

local function open_circuits()
  local circuits, is_source = {}, true
  for store in each(stores) do
    local since, reason, probe, only_key, paused = unpack(redis.call(
      'HMGET', PREFIX .. 'circuit:' .. store, 'since', 'reason', 'probe', 'only_key', 'paused'))
    if since then
      circuits[#circuits + 1] = {store, reason, paused and '' or choose_probe(store, probe, only_key, is_source)}
    end
    is_source = false
  end
  return circuits
end

-- A process with other buckets has taken over the route: leave its jobs to its processes.
if route_token ~= '' and (redis.call('HGET', PREFIX .. 'fingerprint', 'token') or route_token) ~= route_token then
  return_delivered()
  return {{}, {}, 1, 0}
end
-- Delivered entries are claimed even on a paused route: left pending, they would wait until their lease expires.
claim_delivered()
local paused, more_expired = redis.call('EXISTS', PREFIX .. 'paused'), false
if paused == 0 then
  more_expired = with_expired and claim_expired()
  claim_queued()
end
return {jobs, open_circuits(), paused, more_expired and 1 or 0}
