-- Deletes consumers of a group that have no pending entries: the named one, and those idle for max_idle_ms.
-- One script, so that no consumer receives an entry between the check and the deletion.
-- KEYS[1]  the stream
-- ARGV     group, consumer, max_idle_ms
local group, leaving, max_idle_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])

for _, flat_fields in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], group)) do
  local consumer = {}
  for i = 1, #flat_fields, 2 do
    consumer[flat_fields[i]] = flat_fields[i + 1]
  end
  if consumer.pending == 0 and (consumer.name == leaving or consumer.idle > max_idle_ms) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], group, consumer.name)
  end
end
