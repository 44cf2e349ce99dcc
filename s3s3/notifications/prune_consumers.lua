-- Consumers of a stream's group that owe nothing are taken away: ARGV[2], and those silent for ARGV[3] ms.
-- One script, so that no entry gets to a consumer between the look at it and its end.
local gone = 0
for _, fields in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local about = {}
  for i = 1, #fields, 2 do
    about[fields[i]] = fields[i + 1]
  end
  if about.pending == 0 and (about.name == ARGV[2] or about.idle > tonumber(ARGV[3])) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], about.name)
    gone = gone + 1
  end
end
return gone
