-- ARGV: consumer.  A consumer is deleted only with nothing pending: deleting it would lose its claims.
local deleted = 0
for _, lane in ipairs({'fresh', 'bulk'}) do
  local pending = redis.pcall('XPENDING', P .. lane, GROUP, '-', '+', 1, ARGV[1])
  if not pending.err and #pending == 0 then
    deleted = deleted + redis.call('XGROUP', 'DELCONSUMER', P .. lane, GROUP, ARGV[1])
  end
end
return deleted
