-- Reserve the next stretch of a limit's schedule; limits.py says what the key holds.
-- KEYS[1]: the key.  ARGV: the process's id, how long the stretch is, how much of the past may still be used. All in us.
-- Returns {how long to wait for it, how much of the past is unused then (negative: the schedule is full for so long),
-- among how many processes it is shared}.
local at, id, span, burst = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local SHARES_US, LONGEST_US, KEPT_MS = 10e6, 600e6, 660000
local clock = redis.call('TIME')
local now = clock[1] * 1e6 + clock[2]

local due, sharers = now - burst, 1
local fields = redis.call('HGETALL', at)
for i = 1, #fields, 2 do
  local name, time = fields[i], tonumber(fields[i + 1])
  if name == 'due' then
    -- A clock that was set back leaves a schedule that begins in the far future.
    if time - now < LONGEST_US then due = math.max(due, time) end
  elseif name ~= id then
    if math.abs(now - time) > SHARES_US then redis.call('HDEL', at, name) else sharers = sharers + 1 end
  end
end
redis.call('HSET', at, 'due', string.format('%.0f', due + span), id, string.format('%.0f', now))
redis.call('PEXPIRE', at, KEPT_MS)
return {math.max(due - now, 0), now - due - span, sharers}
