-- ARGV: consumer, then for each job: lane, entry, key, token.  Returns the tokens of lost jobs.
-- Comparing the token and renewing is one atomic step: a process suspended past its lease must not regain a job
-- that another worker has taken over.
local consumer, lost = ARGV[2], {}
for i = 3, #ARGV, 4 do
  local lane, entry, key, token = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local is_renewed = redis.call('HGET', job_key(key), 'token') == token
    and #redis.call('XCLAIM', PREFIX .. lane, GROUP, consumer, 0, entry, 'JUSTID') == 1
  if not is_renewed then lost[#lost + 1] = token end
end
return lost
