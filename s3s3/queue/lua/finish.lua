-- ARGV: all destinations of the route,
--       JSON list of jobs {key, token, recheck (1 or 0), destinations that are done, dispositions},
--       a disposition being {destination, kind, delay_ms, event for the trackers, detail, 1 if a parked one has failed},
--       stores that the jobs have used ('STORE', 'STORE:write').
--       The detail is the dead letter (dead-letter), the reason (retry, retry-uncounted; both are JSON), or the store to
--       wait for (park).
-- Returns the tokens of the jobs that another worker owns.
local all_destinations, finished_jobs, succeeded = ARGV[2], cjson.decode(ARGV[3]), ARGV[4]
local OUTCOMES_KEPT_S = 3600
local MAX_FAILURES = 10

-- 'dest-a=2 dest-b=1' to a table, and back.
local function parse_attempts(text)
  local attempts = {}
  for name, count in text:gmatch('([^ ]+)=(%d+)') do attempts[name] = tonumber(count) end
  return attempts
end

local function format_attempts(attempts)
  local parts = {}
  for name, count in pairs(attempts) do parts[#parts + 1] = name .. '=' .. count end
  table.sort(parts)
  return table.concat(parts, ' ')
end

local function parse_failures(text)
  local lines = {}
  for line in text:gmatch('[^\n]+') do lines[#lines + 1] = line end
  return lines
end

-- Remove the failed attempts at a destination; return them as JSON.
local function take_failures(job, name)
  local kept, taken = {}, {}
  for _, line in ipairs(job.failures) do
    local destination, attempt = line:match('^([^ ]+) (.+)$')
    if destination == name then taken[#taken + 1] = attempt else kept[#kept + 1] = line end
  end
  job.failures = kept
  return table.concat(taken, ', ')
end

local function report(trackers, event)
  if event == '' then return end
  for tracker in each(trackers) do
    redis.call('RPUSH', PREFIX .. 'outcomes:' .. tracker, event)
    redis.call('EXPIRE', PREFIX .. 'outcomes:' .. tracker, OUTCOMES_KEPT_S)
  end
end

-- What each kind of disposition changes. `job` collects what the record becomes:
--   key, attempts
--   failures         failed attempts, as in the record, in a list
--   lane             its lane until now
--   next_retry_ms    when a retry scheduled earlier is due; nil unless that is still to come
--   remaining        destinations that stay in the record
--   retry_at_ms      when the first of their retries is due; nil for none
--   has_failed       whether an attempt failed, counted or not
--   requeue_lane     the lane in which the remaining ones are queued again without delay; nil for none
local settle = {}

settle['done'] = function(job, name)
  job.attempts[name] = nil
  take_failures(job, name)
  redis.call('HDEL', PREFIX .. 'dead-letters:' .. name, job.key)
end

settle['dead-letter'] = function(job, name, delay_ms, letter)
  job.attempts[name] = nil
  local failures = take_failures(job, name)
  if failures ~= '' then letter = letter:sub(1, -2) .. ', "failures": [' .. failures .. ']}' end
  redis.call('HSET', PREFIX .. 'dead-letters:' .. name, job.key, letter)
end

-- A notification can run a key before its retry is due. A failure then is not counted and postpones nothing: a key
-- overwritten every second would otherwise use up its attempts within seconds.
settle['retry'] = function(job, name, delay_ms, reason)
  local attempts = job.attempts[name]
  if not (job.next_retry_ms and attempts) then job.attempts[name] = (attempts or 0) + 1 end
  settle['retry-uncounted'](job, name, delay_ms, reason)
end

settle['retry-uncounted'] = function(job, name, delay_ms, reason)
  job.attempts[name] = job.attempts[name] or 0
  job.failures[#job.failures + 1] = string.format('%s {"at_ms": %d, "reason": %s}', name, now, reason)
  job.has_failed = true
  job.remaining = union(job.remaining, name)
  job.retry_at_ms = math.min(job.retry_at_ms or math.huge, now + delay_ms, job.next_retry_ms or math.huge)
end

settle['park'] = function(job, name, delay_ms, store, has_failed)
  if has_failed == 1 then
    job.attempts[name] = job.attempts[name] or 0
    job.has_failed = true
  end
  job.remaining = union(job.remaining, name)
  redis.call('SADD', PREFIX .. 'parked:' .. store, job.key)
end

-- In a rolling restart, other processes may have a destination that this one does not have. Only they promote keys that
-- are parked for it. Without such a process it has been removed from the configuration.
settle['unknown'] = function(job, name)
  local fingerprint = redis.call('HGET', PREFIX .. 'fingerprint', 'fingerprint')
  local is_known = fingerprint and cjson.decode(fingerprint).destinations[name]
  settle[is_known and 'park' or 'done'](job, name, 0, name)
end

settle['release'] = function(job, name)
  job.remaining = union(job.remaining, name)
  job.requeue_lane = job.requeue_lane or job.lane
end

settle['defer'] = function(job, name)
  job.remaining = union(job.remaining, name)
  job.requeue_lane = 'bulk'
end

local function settle_all(key, record, done, dispositions)
  local next_retry_ms = tonumber(record.retry_at_ms)
  local job = {
    key = key, attempts = parse_attempts(record.attempts), failures = parse_failures(record.failures),
    lane = record.lane, remaining = '',
    next_retry_ms = next_retry_ms and now < next_retry_ms and next_retry_ms or nil,
  }
  for name in each(done) do settle['done'](job, name) end
  for _, disposition in ipairs(dispositions) do
    local name, kind, delay_ms, event, detail, has_failed = unpack(disposition)
    settle[kind](job, name, delay_ms, detail, has_failed)
    report(record.trackers, event)
  end
  return job
end

-- A key enqueued while it ran is queued again, at the end of its lane: for the destinations of that request and for
-- the remaining ones, with their trackers.
local function finish(key, record, done, dispositions)
  delete_entry(record.lane, record.entry)
  local job = settle_all(key, record, done, dispositions)
  local remaining, attempts = job.remaining, format_attempts(job.attempts)
  if job.retry_at_ms then redis.call('HSET', job_key(key), 'retry_at_ms', string.format('%d', job.retry_at_ms)) end
  if job.has_failed then redis.call('HSET', job_key(key), 'failed_ms', now) end
  local failures = table.concat(job.failures, '\n', math.max(#job.failures - MAX_FAILURES, 0) + 1)
  if failures ~= record.failures then redis.call('HSET', job_key(key), 'failures', failures) end
  if record.rerun ~= '' then
    local lane = record.rerun_lane ~= '' and record.rerun_lane or 'bulk'
    write_queued(key, lane, union(record.rerun, remaining), '', record.rerun_notified_ms, attempts,
                 union(remaining ~= '' and record.trackers or '', record.rerun_trackers))
  elseif job.requeue_lane then
    write_queued(key, job.requeue_lane, remaining, '', record.notified_ms, attempts, record.trackers)
  elseif remaining ~= '' then
    redis.call('HSET', job_key(key), 'phase', 'waiting', 'destinations', remaining, 'attempts', attempts)
    redis.call('HDEL', job_key(key), 'entry', 'token', 'unconditional')
    if job.retry_at_ms then redis.call('ZADD', PREFIX .. 'retries', job.retry_at_ms, key) end
  else
    redis.call('DEL', job_key(key))
  end
end

local successes = {}
for name in each(succeeded) do
  successes[#successes + 1] = name
  successes[#successes + 1] = now
end
if #successes > 0 then redis.call('HSET', PREFIX .. 'successes', unpack(successes)) end

local lost = {}
for _, finished in ipairs(finished_jobs) do
  local key, token, recheck, done, dispositions = unpack(finished)
  local record = read_record(key)
  if recheck == 1 then schedule_recheck(key) end
  if record.phase == 'running' and record.token == token then
    finish(key, record, done, dispositions)
  else
    -- Another worker took the job over, so a write made here may have come too late: compare every destination.
    enqueue(key, all_destinations, 'bulk', tostring(now), '', '')
    lost[#lost + 1] = token
  end
end
return lost
