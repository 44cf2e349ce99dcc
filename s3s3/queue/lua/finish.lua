-- ARGV: all destinations,
--       JSON: for each job {key, token, 1 to leave a look or 0, destinations that are done, further verdicts},
--       a verdict being {destination, done|retry|park|dead-letter|release|defer, delay_ms, event for its runs,
--       the dead letter (dead-letter) or the name of the circuit that it waits for (park)}
-- Returns the tokens that were not the owner's any more.
local all, jobs = ARGV[2], cjson.decode(ARGV[3])
local RUN_KEPT_S = 3600

local function tries_of(text)
  local tries = {}
  for name, count in text:gmatch('([^ ]+)=(%d+)') do tries[name] = tonumber(count) end
  return tries
end

local function tries_text(tries)
  local parts = {}
  for name, count in pairs(tries) do parts[#parts + 1] = name .. '=' .. count end
  table.sort(parts)
  return table.concat(parts, ' ')
end

local function tell(runs, event)
  if event == '' then return end
  for run in each(runs) do
    redis.call('RPUSH', P .. 'run:' .. run, event)
    redis.call('EXPIRE', P .. 'run:' .. run, RUN_KEPT_S)
  end
end

-- Returns the destinations that are left over, when the first of their retries is due, the lane to which any goes back
-- untried (nil where none does), and the tries.
-- A notice has a key tried before its retry is due. That counts as no try, and puts none off: else a key that is
-- overwritten each second would be a dead letter within seconds.
local function settle(key, record, done, verdicts)
  local tries = tries_of(record.tries)
  local still_due = tonumber(record.due)
  local is_early = still_due and now < still_due
  local left, due, back = '', nil, nil
  for name in each(done) do
    tries[name] = nil
    redis.call('HDEL', P .. 'dead:' .. name, key)
  end
  for _, verdict in ipairs(verdicts) do
    local name, word, delay_ms, event, text = unpack(verdict)
    if word == 'done' then
      tries[name] = nil
      redis.call('HDEL', P .. 'dead:' .. name, key)
    elseif word == 'dead-letter' then
      tries[name] = nil
      redis.call('HSET', P .. 'dead:' .. name, key, text)
    else
      left = union(left, name)
      if word == 'retry' then
        if not (is_early and tries[name]) then tries[name] = (tries[name] or 0) + 1 end
        due = math.min(due or math.huge, now + delay_ms, is_early and still_due or math.huge)
      elseif word == 'park' then
        redis.call('SADD', P .. 'parked:' .. text, key)
      elseif word == 'defer' then
        back = 'bulk'
      else
        back = back or record.lane
      end
    end
    tell(record.runs, event)
  end
  return left, due, back, tries_text(tries)
end

-- Noticed while it ran: one more look, from the end of the lane, for that and for whatever is left over.
-- The runs that wait for what is left over go along.
local function finish(key, record, done, verdicts)
  forget_entry(record.lane, record.entry)
  local left, due, back, tries = settle(key, record, done, verdicts)
  if due then redis.call('HSET', job(key), 'due', string.format('%d', due)) end
  if record.again ~= '' then
    local lane = record.again_lane ~= '' and record.again_lane or 'bulk'
    enqueue(key, lane, union(record.again, left), '', record.again_noticed, tries,
            union(left ~= '' and record.runs or '', record.again_runs))
  elseif back then
    enqueue(key, back, left, '', record.noticed, tries, record.runs)
  elseif left ~= '' then
    redis.call('HSET', job(key), 'phase', 'waiting', 'want', left, 'tries', tries)
    redis.call('HDEL', job(key), 'entry', 'token', 'unseen')
    if due then redis.call('ZADD', P .. 'waiting', due, key) end
  else
    redis.call('DEL', job(key))
  end
end

local lost = {}
for _, finished in ipairs(jobs) do
  local key, token, look, done, verdicts = unpack(finished)
  local record = read(key)
  if look == 1 then leave_look(key) end
  if record.phase == 'running' and record.token == token then
    finish(key, record, done, verdicts)
  else
    -- Somebody took it over. What was done here may have come too late or too early: let everything be looked at.
    put(key, all, 'bulk', tostring(now), '', '')
    lost[#lost + 1] = token
  end
end
return lost
