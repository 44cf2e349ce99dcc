-- The lock of a route's reconcile; lock.py describes the key.
-- KEYS[1]: the lock.  ARGV: command, reconcile id, then
--   acquire  host, pid, lease_ms, progress ('' for none)   acquires or renews the lock; returns nil, or {host, pid,
--                                                          since_ms} of another holder
--   release                                                deletes the lock, if this reconcile has it
local lock, command, id = KEYS[1], ARGV[1], ARGV[2]
local holder, host, pid, since_ms = unpack(redis.call('HMGET', lock, 'id', 'host', 'pid', 'since_ms'))
if command == 'release' then
  if holder == id then redis.call('DEL', lock) end
  return false
end
if holder and holder ~= id then return {host, pid, since_ms} end
if not holder then
  local clock = redis.call('TIME')
  local now = string.format('%d', clock[1] * 1000 + math.floor(clock[2] / 1000))
  redis.call('HSET', lock, 'id', id, 'host', ARGV[3], 'pid', ARGV[4], 'since_ms', now)
end
if ARGV[6] ~= '' then redis.call('HSET', lock, 'progress', ARGV[6]) end
redis.call('PEXPIRE', lock, ARGV[5])
return false
