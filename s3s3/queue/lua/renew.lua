-- ARGV: consumer, then for each job: lane, entry, key, token.  Returns the tokens that are no longer valid.
-- The token is compared here, atomically: a process that slept past its lease must not steal a job back.
local consumer, lost = ARGV[2], {}
for i = 3, #ARGV, 4 do
  local lane, entry, key, token = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local renewed = redis.call('HGET', job(key), 'token') == token
    and #redis.call('XCLAIM', P .. lane, GROUP, consumer, 0, entry, 'JUSTID') == 1
  if not renewed then lost[#lost + 1] = token end
end
return lost
