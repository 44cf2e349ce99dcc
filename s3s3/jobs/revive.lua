-- ARGV: destination, then dead letters' keys.  Returns how many were there.
local revived = 0
for i = 2, #ARGV do
  if redis.call('HDEL', P .. 'dead:' .. ARGV[1], ARGV[i]) == 1 then
    put(ARGV[i], ARGV[1], 'bulk', tostring(now), '', '')
    revived = revived + 1
  end
end
return revived
