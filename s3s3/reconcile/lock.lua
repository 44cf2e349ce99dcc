-- Who compares a whole route; run_lock.py says what the key holds.
-- KEYS[1]: the key.  ARGV: a word, the run's id, then
--   take    host, pid, lease_ms    take it or keep it; returns who else has it {host, pid, since_ms}, nil for nobody
--   give                           let others run
local at, word, id = KEYS[1], ARGV[1], ARGV[2]
local holder, host, pid, since_ms = unpack(redis.call('HMGET', at, 'id', 'host', 'pid', 'since_ms'))
if word == 'give' then
  if holder == id then redis.call('DEL', at) end
  return false
end
if holder and holder ~= id then return {host, pid, since_ms} end
if not holder then
  local clock = redis.call('TIME')
  local now = string.format('%d', clock[1] * 1000 + math.floor(clock[2] / 1000))
  redis.call('HSET', at, 'id', id, 'host', ARGV[3], 'pid', ARGV[4], 'since_ms', now)
end
redis.call('PEXPIRE', at, ARGV[5])
return false
