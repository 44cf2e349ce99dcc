-- Reserve the next stretch of a rate limit's schedule; rate_limiter.py describes the key. All times in microseconds.
-- KEYS[1]  the key
-- ARGV     process id, length of the stretch, burst: how much unused time before now may still be used
-- Returns {wait until the stretch begins, unreserved time left (negative: reserved ahead), processes that share}.
local key, id, span, burst = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local SHARED_FOR_US, MAX_AHEAD_US, EXPIRES_MS = 10e6, 600e6, 660000
local clock = redis.call('TIME')
local now = clock[1] * 1e6 + clock[2]

local due, sharers = now - burst, 1
local fields = redis.call('HGETALL', key)
for i = 1, #fields, 2 do
  local name, time = fields[i], tonumber(fields[i + 1])
  if name == 'due' then
    -- A schedule that begins in the far future is from before the clock was set back: start over.
    if time - now < MAX_AHEAD_US then due = math.max(due, time) end
  elseif name ~= id then
    if math.abs(now - time) > SHARED_FOR_US then redis.call('HDEL', key, name) else sharers = sharers + 1 end
  end
end
redis.call('HSET', key, 'due', string.format('%.0f', due + span), id, string.format('%.0f', now))
redis.call('PEXPIRE', key, EXPIRES_MS)
return {math.max(due - now, 0), now - due - span, sharers}
