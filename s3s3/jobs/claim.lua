-- ARGV: consumer, token, free slots, bulk slots to fill before fresh jobs take theirs, bulk slots to fill at most,
--       lease_ms, look_delay_ms, '1' to take over lapsed claims too, all circuits,
--       then for each entry that a blocking read delivered: lane, entry, key
-- Returns {jobs, circuits, paused}: a job is {key, want, lane, entry, token, unseen, noticed, tries, runs},
-- a circuit {destination, the key that probes it}.
local consumer, token = ARGV[1], ARGV[2]
local free, bulk_first, bulk_most = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local lease_ms, look_delay_ms, lapsed_too, all_circuits = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8] == '1', ARGV[9]
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
  elseif not (own and record.phase == 'running') then
    forget_entry(lane, entry)
  end
end

local function claim_new(lane, count)
  local before = #jobs
  while #jobs - before < count do
    local streams = redis.call('XREADGROUP', 'GROUP', GROUP, consumer, 'COUNT', count - (#jobs - before),
                               'STREAMS', P .. lane, '>')
    if not streams then return end
    for _, entry in ipairs(streams[1][2]) do claim(lane, entry[1], entry[2][2]) end
  end
end

local function take_over(lane)
  local cursor = '0-0'
  repeat
    local page = redis.call('XAUTOCLAIM', P .. lane, GROUP, consumer, lease_ms, cursor, 'COUNT',
                            math.max(free - #jobs, 1), 'JUSTID')
    cursor = page[1]
    for _, id in ipairs(page[2]) do
      local entry = redis.call('XRANGE', P .. lane, id, id)[1]
      if not entry then
        -- Redis 6.2 still hands out entries that were deleted.
        redis.call('XACK', P .. lane, GROUP, id)
      else
        local key = entry[2][2]
        local record = read(key)
        if record.phase == 'running' and record.lane == lane and record.entry == id then
          -- Whoever had it may have copied already, and its last PUT may still be in flight.
          leave_look(key, look_delay_ms)
          run(key, record, '')
        else
          claim(lane, id, key)
        end
      end
    end
  until cursor == '0-0' or #jobs >= free
end

local function claim_waiting()
  if lapsed_too and #jobs < free then take_over('fresh') end
  if lapsed_too and #jobs < free then take_over('bulk') end
  local before = #jobs
  claim_new('bulk', math.min(bulk_first, free - #jobs))
  local bulk = #jobs - before
  claim_new('fresh', free - #jobs)
  claim_new('bulk', math.min(bulk_most - bulk, free - #jobs))
end

local function open_circuits()
  local circuits = {}
  for name in all_circuits:gmatch('%S+') do
    local circuit = redis.call('HMGET', P .. 'circuit:' .. name, 'since', 'probe')
    if circuit[1] then circuits[#circuits + 1] = {name, circuit[2] or ''} end
  end
  return circuits
end

-- What was delivered already is taken even from a paused route: an entry left pending would wait for a lease to lapse.
for i = 10, #ARGV, 3 do claim(ARGV[i], ARGV[i + 1], ARGV[i + 2]) end
local paused = redis.call('EXISTS', P .. 'paused')
if paused == 0 then claim_waiting() end
return {jobs, open_circuits(), paused}
