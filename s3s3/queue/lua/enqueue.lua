-- ARGV: lane, run ('' for none), '1' to copy without a look,
--       JSON: for each key, one after the other: key, destinations, noticed_ms ('' for now)
local lane, run, unseen, puts = ARGV[2], ARGV[3], ARGV[4], cjson.decode(ARGV[5])
for i = 1, #puts, 3 do
  put(puts[i], puts[i + 1], lane, puts[i + 2] ~= '' and puts[i + 2] or tostring(now), run, unseen)
end
return #puts / 3
