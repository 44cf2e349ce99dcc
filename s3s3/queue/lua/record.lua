-- Put before each of the other scripts: the record of a key, and the one rule by which it is put.
--
-- KEYS[1] is the route's prefix, "s3s3:{ROUTE}:". Every other key is made from it here; all share its hash tag,
-- so they live in one slot of a cluster, and a script may touch them all.
-- ARGV[1] is the look's delay in ms, for every script. redis.py says what each key holds.

local P = KEYS[1]
local LOOK_MS = tonumber(ARGV[1])
local GROUP = 's3s3'
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- Sets of destinations are strings of names with a space between: short, ordered, and readable in redis-cli.
local function each(names) return names:gmatch('[^ ]+') end

local function holds(names, wanted)
  for name in each(names) do
    if name == wanted then return true end
  end
  return false
end

local function union(a, b)
  if a == b or b == '' then return a end
  for name in each(b) do
    if not holds(a, name) then a = a == '' and name or a .. ' ' .. name end
  end
  return a
end

local function job(key) return P .. 'job:' .. key end

local ABSENT_IS_EMPTY = {__index = function() return '' end}

local function read(key)
  local fields, record = redis.call('HGETALL', job(key)), setmetatable({}, ABSENT_IS_EMPTY)
  for i = 1, #fields, 2 do record[fields[i]] = fields[i + 1] end
  return record
end

-- A record whose entry somebody trimmed or lost would never be claimed: it counts as absent.
local function has_entry(record)
  return #redis.call('XRANGE', P .. record.lane, record.entry, record.entry) == 1
end

-- Make the key queued, at the end of its lane. Whatever said who runs it is gone; when it is due goes with its tries.
local function enqueue(key, lane, want, unseen, noticed, tries, runs)
  local entry = redis.call('XADD', P .. lane, '*', 'key', key)
  local due = tries ~= '' and redis.call('HGET', job(key), 'due')
  redis.call('DEL', job(key))
  redis.call('HSET', job(key), 'phase', 'queued', 'want', want, 'lane', lane, 'entry', entry, 'unseen', unseen,
             'noticed', noticed, 'tries', tries, 'runs', runs)
  if due then redis.call('HSET', job(key), 'due', due) end
end

-- A look is due after the longest time that an old PUT could still be in flight; neither put nor finish touches it.
local function leave_look(key)
  redis.call('ZADD', P .. 'looks', 'GT', now + LOOK_MS, key)
end

-- put(key, destinations): somebody says that the key is worth a look at these destinations.
-- What each phase makes of it is the heart of the queue's rule.
-- unseen is '1' where the copy is to go out without a look at the destinations first.
local function put(key, want, lane, noticed, run, unseen)
  local record = read(key)
  local phase = record.phase
  if (phase == 'queued' or phase == 'running') and not has_entry(record) then
    if phase == 'running' then leave_look(key) end
    enqueue(key, lane, union(want, union(record.want, record.again)), '', noticed, record.tries,
            union(record.runs, union(record.again_runs, run)))
  elseif phase == 'queued' then
    redis.call('HSET', job(key), 'want', union(record.want, want), 'runs', union(record.runs, run))
    if unseen == '1' then redis.call('HSET', job(key), 'unseen', '1') end
    if lane == 'fresh' and record.lane == 'bulk' then
      -- The old entry stays in the bulk lane; whoever claims it drops it, for it is no longer the record's.
      local entry = redis.call('XADD', P .. 'fresh', '*', 'key', key)
      redis.call('HSET', job(key), 'lane', 'fresh', 'entry', entry, 'noticed', noticed)
    end
  elseif phase == 'running' then
    redis.call('HSET', job(key), 'again', union(record.again, want), 'again_runs', union(record.again_runs, run))
    if record.again_noticed == '' or (lane == 'fresh' and record.again_lane == '') then
      redis.call('HSET', job(key), 'again_noticed', noticed)
    end
    if lane == 'fresh' then redis.call('HSET', job(key), 'again_lane', 'fresh') end
  elseif phase == 'waiting' then
    redis.call('ZREM', P .. 'waiting', key)
    enqueue(key, lane, union(record.want, want), unseen, noticed, record.tries, union(record.runs, run))
  else
    enqueue(key, lane, want, unseen, noticed, '', run)
  end
end

local function forget_entry(lane, entry)
  redis.call('XACK', P .. lane, GROUP, entry)
  redis.call('XDEL', P .. lane, entry)
end
