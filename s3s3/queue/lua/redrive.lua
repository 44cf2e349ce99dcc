-- ARGV: destination, then dead letters' keys.  Returns how many were there.
local destination, revived = ARGV[2], 0
for i = 3, #ARGV do
  if redis.call('HDEL', P .. 'dead:' .. destination, ARGV[i]) == 1 then
    put(ARGV[i], destination, 'bulk', tostring(now), '', '')
    revived = revived + 1
  end
end
return revived
