-- ARGV: lane, run ('' for none), '1' to copy without a look,
--       then for each key: key, destinations, noticed_ms ('' for now)
for i = 4, #ARGV, 3 do
  put(ARGV[i], ARGV[i + 1], ARGV[1], ARGV[i + 2] ~= '' and ARGV[i + 2] or tostring(now), ARGV[2], ARGV[3])
end
return now
