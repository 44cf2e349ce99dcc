-- ARGV: destination, then the keys of dead letters.  Returns how many of them were found and enqueued.
local destination, redriven = ARGV[2], 0
for i = 3, #ARGV do
  if redis.call('HDEL', PREFIX .. 'dead-letters:' .. destination, ARGV[i]) == 1 then
    enqueue(ARGV[i], destination, 'bulk', tostring(now), '', '')
    redriven = redriven + 1
  end
end
return redriven
