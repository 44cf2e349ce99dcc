-- ARGV: consumer.  Deletes it from each lane's group, unless it has pending claims there: they would be lost with it.
-- pcall: the stream of a lane may be missing.
local consumer, deleted = ARGV[2], 0
for _, lane in ipairs({'fresh', 'bulk'}) do
  local pending = redis.pcall('XPENDING', PREFIX .. lane, GROUP, '-', '+', 1, consumer)
  if not pending.err and #pending == 0 then
    deleted = deleted + redis.call('XGROUP', 'DELCONSUMER', PREFIX .. lane, GROUP, consumer)
  end
end
return deleted
