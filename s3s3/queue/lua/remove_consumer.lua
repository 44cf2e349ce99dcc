-- ARGV: consumer.  A consumer is deleted only with nothing pending: deleting it would lose its claims.
local consumer, deleted = ARGV[2], 0
for _, lane in ipairs({'fresh', 'bulk'}) do
  local pending = redis.pcall('XPENDING', P .. lane, GROUP, '-', '+', 1, consumer)
  if not pending.err and #pending == 0 then
    deleted = deleted + redis.call('XGROUP', 'DELCONSUMER', P .. lane, GROUP, consumer)
  end
end
return deleted
