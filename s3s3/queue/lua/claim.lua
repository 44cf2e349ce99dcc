-- ARGV: consumer, token, free slots, bulk slots to fill before fresh jobs take theirs, bulk slots to fill at most,
--       lease_ms, '1' to take over lapsed claims too, all stores (the source first),
--       then for each entry that a blocking read delivered: lane, entry, key
-- Returns {jobs, circuits, paused, '1' where lapsed claims may be left}: a job is {key, want, lane, entry, token,
-- unseen, noticed, tries, runs}, a circuit {store, the key that probes it}.
local consumer, token = ARGV[2], ARGV[3]
local free, bulk_first, bulk_most = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local lease_ms, lapsed_too, stores = tonumber(ARGV[7]), ARGV[8] == '1', ARGV[9]
local FIRST_DELIVERED = 10
local CONSUMER_KEPT_MS = 60 * lease_ms
local MOST_READS = 50 -- of a lane that is full of leftovers: meanwhile Redis answers nobody
local jobs = {}

local function run(key, record, unseen)
  local mine = token .. '.' .. (#jobs + 1)
  redis.call('HSET', job(key), 'phase', 'running', 'token', mine)
  jobs[#jobs + 1] = {key, record.want, record.lane, record.entry, mine, unseen, record.noticed, record.tries,
                     record.runs}
end

-- The record's own entry, still queued: it is ours. Any other entry is a leftover, and dropped.
local function claim(lane, entry, key)
  local record = read(key)
  local own = record.lane == lane and record.entry == entry
  if own and record.phase == 'queued' then
    run(key, record, record.unseen)
    return true
  elseif not (own and record.phase == 'running') then
    forget_entry(lane, entry)
  end
end

-- The lease counts from now on, not from when the entry was delivered.
local function claim_delivered()
  for i = FIRST_DELIVERED, #ARGV, 3 do
    local lane, entry, key = ARGV[i], ARGV[i + 1], ARGV[i + 2]
    if claim(lane, entry, key) then redis.call('XCLAIM', P .. lane, GROUP, consumer, 0, entry, 'JUSTID') end
  end
end

local function claim_new(lane, count)
  local before = #jobs
  for _ = 1, MOST_READS do
    if #jobs - before >= count then return end
    local streams = redis.call('XREADGROUP', 'GROUP', GROUP, consumer, 'COUNT', count - (#jobs - before),
                               'STREAMS', P .. lane, '>')
    if not streams then return end
    for _, entry in ipairs(streams[1][2]) do claim(lane, entry[1], entry[2][2]) end
  end
end

local function take_over_entry(lane, id)
  local entry = redis.call('XRANGE', P .. lane, id, id)[1]
  if not entry then
    -- Redis 6.2 still hands out entries that were deleted.
    redis.call('XACK', P .. lane, GROUP, id)
    return
  end
  local key = entry[2][2]
  local record = read(key)
  if record.phase == 'running' and record.lane == lane and record.entry == id then
    -- Whoever had it may have copied already, and its last PUT may still be in flight.
    leave_look(key)
    run(key, record, '')
  else
    claim(lane, id, key)
  end
end

-- Returns whether there may be more.
local function take_over(lane)
  local cursor = '0-0'
  repeat
    if #jobs >= free then return true end
    local page = redis.call('XAUTOCLAIM', P .. lane, GROUP, consumer, lease_ms, cursor, 'COUNT', free - #jobs, 'JUSTID')
    cursor = page[1]
    for _, id in ipairs(page[2]) do take_over_entry(lane, id) end
  until cursor == '0-0'
  return false
end

-- A process that was killed leaves its consumers behind: without claims they are of no use to anybody.
-- A lane that is lost has none; it is made again when somebody has a slot for what stands in it.
local function forget_dead_consumers(lane)
  for _, info in ipairs(redis.pcall('XINFO', 'CONSUMERS', P .. lane, GROUP)) do
    local name, pending, idle_ms = info[2], info[4], info[6]
    if pending == 0 and idle_ms > CONSUMER_KEPT_MS then
      redis.call('XGROUP', 'DELCONSUMER', P .. lane, GROUP, name)
    end
  end
end

local function claim_lapsed()
  local more = false
  for _, lane in ipairs({'fresh', 'bulk'}) do
    more = take_over(lane) or more
    forget_dead_consumers(lane)
  end
  return more
end

local function claim_waiting()
  local before = #jobs
  claim_new('bulk', math.min(bulk_first, free - #jobs))
  local bulk = #jobs - before
  claim_new('fresh', free - #jobs)
  claim_new('bulk', math.min(bulk_most - bulk, free - #jobs))
end

-- A probe that still stands in line, or came to nothing, gives way to a job that is here now: behind a long lane
-- nobody would learn that the store is back.
local function probe_of(name, probe, is_source)
  if read(probe).phase == 'running' then return probe end
  for _, claimed in ipairs(jobs) do
    local key, want = claimed[1], claimed[2]
    if is_source or holds(want, name) then
      redis.call('HSET', P .. 'circuit:' .. name, 'probe', key, 'probe_at', now + lease_ms)
      return key
    end
  end
  return probe
end

local function open_circuits()
  local circuits, is_source = {}, true
  for name in each(stores) do
    local since, probe = unpack(redis.call('HMGET', P .. 'circuit:' .. name, 'since', 'probe'))
    if since then circuits[#circuits + 1] = {name, probe and probe_of(name, probe, is_source) or ''} end
    is_source = false
  end
  return circuits
end

-- What was delivered already is taken even from a paused route: an entry left pending would wait for a lease to lapse.
claim_delivered()
local paused, more = redis.call('EXISTS', P .. 'paused'), false
if paused == 0 then
  more = lapsed_too and claim_lapsed()
  claim_waiting()
end
return {jobs, open_circuits(), paused, more and 1 or 0}
