-- ARGV: all destinations, then for each job: key, token, look_delay_ms ('' for no look), number of verdicts,
--       and for each verdict: destination, done|retry|park|bury|back, delay_ms, event for its runs,
--       and the dead letter (bury) or the name of the circuit that it waits for (park)
-- Returns the tokens that were not the owner's any more.
local RUN_KEPT_S = 3600

local function verdicts_at(position, count)
  local verdicts = {}
  for i = 1, count do
    verdicts[i] = {destination = ARGV[position], word = ARGV[position + 1], delay_ms = tonumber(ARGV[position + 2]),
                   event = ARGV[position + 3], text = ARGV[position + 4]}
    position = position + 5
  end
  return verdicts
end

local function tell(runs, event)
  if event == '' then return end
  for run in runs:gmatch('%S+') do
    redis.call('RPUSH', P .. 'run:' .. run, event)
    redis.call('EXPIRE', P .. 'run:' .. run, RUN_KEPT_S)
  end
end

local function settle(key, record, verdicts)
  local tries = tries_of(record.tries)
  local left, due, back = '', nil, false
  for _, verdict in ipairs(verdicts) do
    local name = verdict.destination
    if verdict.word == 'done' or verdict.word == 'bury' then
      tries[name] = nil
      if verdict.word == 'done' then
        redis.call('HDEL', P .. 'dead:' .. name, key)
      else
        redis.call('HSET', P .. 'dead:' .. name, key, verdict.text)
      end
    else
      left = union(left, name)
      if verdict.word == 'retry' then
        tries[name] = (tries[name] or 0) + 1
        due = math.min(due or math.huge, now + verdict.delay_ms)
      elseif verdict.word == 'park' then
        redis.call('SADD', P .. 'parked:' .. verdict.text, key)
      else
        back = true
      end
    end
    tell(record.runs, verdict.event)
  end
  return left, due, back, tries_text(tries)
end

-- Noticed while it ran: one more look, from the end of the lane, for that and for whatever is left over.
-- The runs that wait for what is left over go along.
local function finish(key, record, verdicts)
  forget_entry(record.lane, record.entry)
  local left, due, back, tries = settle(key, record, verdicts)
  if record.again ~= '' then
    local lane = record.again_lane ~= '' and record.again_lane or 'bulk'
    enqueue(key, lane, union(record.again, left), '', record.again_noticed, tries,
            union(left ~= '' and record.runs or '', record.again_runs))
  elseif back then
    enqueue(key, record.lane, left, '', record.noticed, tries, record.runs)
  elseif left ~= '' then
    redis.call('HSET', job(key), 'phase', 'waiting', 'want', left, 'tries', tries)
    redis.call('HDEL', job(key), 'entry', 'token', 'unseen')
    if due then redis.call('ZADD', P .. 'waiting', due, key) end
  else
    redis.call('DEL', job(key))
  end
end

local lost, position = {}, 2
while position <= #ARGV do
  local key, token, look, count = ARGV[position], ARGV[position + 1], ARGV[position + 2], tonumber(ARGV[position + 3])
  local verdicts = verdicts_at(position + 4, count)
  local record = read(key)
  if look ~= '' then leave_look(key, tonumber(look)) end
  if record.phase == 'running' and record.token == token then
    finish(key, record, verdicts)
  else
    -- Somebody took it over. What was done here may have come too late or too early: let everything be looked at.
    put(key, ARGV[1], 'bulk', tostring(now), '', '')
    lost[#lost + 1] = token
  end
  position = position + 4 + count * 5
end
return lost
