-- Prepended to every other script of this folder: the record of a key, and the rule for enqueueing one.
--
-- KEYS[1] is the route's prefix, "NAMESPACE:{ROUTE}:". Every key is built from it here; all share its hash tag,
-- so they are in one slot of a cluster, and a script may use them all.
-- ARGV[1] is the delay of a recheck in ms, for every script. redis_queue.py documents each key and field.

local PREFIX = KEYS[1]
local RECHECK_DELAY_MS = tonumber(ARGV[1])
local GROUP = 's3s3'
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- A set of names is a string, with a space between two names: short, ordered, and readable in redis-cli.
local function each(names) return names:gmatch('[^ ]+') end

local function contains(names, wanted)
  for name in each(names) do
    if name == wanted then return true end
  end
  return false
end

local function union(a, b)
  if a == b or b == '' then return a end
  for name in each(b) do
    if not contains(a, name) then a = a == '' and name or a .. ' ' .. name end
  end
  return a
end

local function job_key(key) return PREFIX .. 'job:' .. key end

local MISSING_FIELD_IS_EMPTY = {__index = function() return '' end}

local function read_record(key)
  local fields, record = redis.call('HGETALL', job_key(key)), setmetatable({}, MISSING_FIELD_IS_EMPTY)
  for i = 1, #fields, 2 do record[fields[i]] = fields[i + 1] end
  return record
end

-- Without its stream entry (trimmed or lost) a record is never claimed: it counts as absent.
local function has_entry(record)
  return #redis.call('XRANGE', PREFIX .. record.lane, record.entry, record.entry) == 1
end

local function delete_entry(lane, entry)
  redis.call('XACK', PREFIX .. lane, GROUP, entry)
  redis.call('XDEL', PREFIX .. lane, entry)
end

-- Replace the record by a queued one, at the end of its lane. What is known of its failures is kept while attempts are
-- counted.
local function write_queued(key, lane, destinations, unconditional, notified_ms, attempts, trackers)
  local entry = redis.call('XADD', PREFIX .. lane, '*', 'key', key)
  local retry_at_ms, failed_ms, failures
  if attempts ~= '' then
    retry_at_ms, failed_ms, failures = unpack(
      redis.call('HMGET', job_key(key), 'retry_at_ms', 'failed_ms', 'failures'))
  end
  redis.call('DEL', job_key(key))
  redis.call('HSET', job_key(key), 'phase', 'queued', 'destinations', destinations, 'lane', lane, 'entry', entry,
             'unconditional', unconditional, 'notified_ms', notified_ms, 'attempts', attempts, 'trackers', trackers)
  if retry_at_ms then redis.call('HSET', job_key(key), 'retry_at_ms', retry_at_ms) end
  if failed_ms then redis.call('HSET', job_key(key), 'failed_ms', failed_ms) end
  if failures then redis.call('HSET', job_key(key), 'failures', failures) end
end

-- Due after the longest time that an earlier PUT can still be in flight. Neither enqueue nor finish removes it.
local function schedule_recheck(key)
  redis.call('ZADD', PREFIX .. 'rechecks', 'GT', now + RECHECK_DELAY_MS, key)
end

-- Request that these destinations of a key be made equal to the source. The key's phase decides what changes.
-- unconditional is '1' for a copy without comparing first; tracker is '' or the id that receives the outcomes.
local function enqueue(key, destinations, lane, notified_ms, tracker, unconditional)
  local record = read_record(key)
  local phase = record.phase
  if (phase == 'queued' or phase == 'running') and not has_entry(record) then
    if phase == 'running' then schedule_recheck(key) end
    write_queued(key, lane, union(destinations, union(record.destinations, record.rerun)), '', notified_ms,
                 record.attempts, union(record.trackers, union(record.rerun_trackers, tracker)))
  elseif phase == 'queued' then
    redis.call('HSET', job_key(key), 'destinations', union(record.destinations, destinations),
               'trackers', union(record.trackers, tracker))
    if unconditional == '1' then redis.call('HSET', job_key(key), 'unconditional', '1') end
    if lane == 'fresh' and record.lane == 'bulk' then
      -- The old entry stays in the bulk lane. It is not the record's any more, so the claim that reads it drops it.
      local entry = redis.call('XADD', PREFIX .. 'fresh', '*', 'key', key)
      redis.call('HSET', job_key(key), 'lane', 'fresh', 'entry', entry, 'notified_ms', notified_ms)
    end
  elseif phase == 'running' then
    redis.call('HSET', job_key(key), 'rerun', union(record.rerun, destinations),
               'rerun_trackers', union(record.rerun_trackers, tracker))
    if record.rerun_notified_ms == '' or (lane == 'fresh' and record.rerun_lane == '') then
      redis.call('HSET', job_key(key), 'rerun_notified_ms', notified_ms)
    end
    if lane == 'fresh' then redis.call('HSET', job_key(key), 'rerun_lane', 'fresh') end
  elseif phase == 'waiting' then
    redis.call('ZREM', PREFIX .. 'retries', key)
    write_queued(key, lane, union(record.destinations, destinations), unconditional, notified_ms, record.attempts,
                 union(record.trackers, tracker))
  else
    write_queued(key, lane, destinations, unconditional, notified_ms, '', tracker)
  end
end
