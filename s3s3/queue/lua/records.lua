-- ARGV: all stores, then keys.
-- Returns {now in ms, {open circuits}, {for each key: fields of its record ('FIELD', VALUE, ...), when its recheck is due
-- (-1: none), stores that it is parked for, ms since the last renewal of its lease (-1: not running)}}.
-- A circuit is {store, since, reason, time of the next probe or '', key that probes it or '', 1 if paused}.
local stores, keys, circuits = ARGV[2], {}, {}

for store in each(stores) do
  local since, reason, probe_at, probe, paused = unpack(redis.call(
    'HMGET', PREFIX .. 'circuit:' .. store, 'since', 'reason', 'probe_at', 'probe', 'paused'))
  if since then
    circuits[#circuits + 1] = {store, since, reason or '', probe_at or '', probe or '', paused and 1 or 0}
  end
end

-- pcall: the stream of a lane may be missing.
local function since_renewal_ms(record)
  if record.phase ~= 'running' then return -1 end
  local found = redis.pcall('XPENDING', PREFIX .. record.lane, GROUP, record.entry, record.entry, 1)
  return found[1] and found[1][3] or -1
end

for i = 3, #ARGV do
  local key, parked = ARGV[i], ''
  for store in each(stores) do
    if redis.call('SISMEMBER', PREFIX .. 'parked:' .. store, key) == 1 then parked = union(parked, store) end
  end
  local fields, record = redis.call('HGETALL', job_key(key)), read_record(key)
  local recheck_at = tonumber(redis.call('ZSCORE', PREFIX .. 'rechecks', key)) or -1
  keys[#keys + 1] = {fields, recheck_at, parked, since_renewal_ms(record)}
end
return {now, circuits, keys}
