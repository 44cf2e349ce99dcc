-- ARGV: sample, names of destinations.
-- Returns for each {queued or running, waiting for another try, parked, age of the oldest in ms (-1: none), 1 if counted}.
-- Which destinations a key is for stands in its record alone, so beyond the sample the numbers are reckoned from it.
local SAMPLE, found = tonumber(ARGV[2]), {}
for i = 3, #ARGV do found[ARGV[i]] = {queued = 0, waiting = 0, oldest = math.huge, exact = 1} end

-- What is parked is counted by itself.
local function see(key, record, share, field)
  for name in each(union(record.want, record.again)) do
    local one = found[name]
    if one and (field ~= 'waiting' or redis.call('SISMEMBER', P .. 'parked:' .. name, key) == 0) then
      one[field] = one[field] + share
      one.oldest = math.min(one.oldest, tonumber(record.noticed) or now)
    end
  end
end

local function sampled(total)
  if total <= SAMPLE then return 1 end
  for _, one in pairs(found) do one.exact = 0 end
  return total / SAMPLE
end

for _, lane in ipairs({'fresh', 'bulk'}) do
  local share = sampled(redis.call('XLEN', P .. lane))
  for _, entry in ipairs(redis.call('XRANGE', P .. lane, '-', '+', 'COUNT', SAMPLE)) do
    local key = entry[2][2]
    local record = read(key)
    if record.entry == entry[1] then see(key, record, share, 'queued') end
  end
end
local share = sampled(redis.call('ZCARD', P .. 'waiting'))
for _, key in ipairs(redis.call('ZRANGE', P .. 'waiting', 0, SAMPLE - 1)) do
  see(key, read(key), share, 'waiting')
end

local answer = {}
for i = 3, #ARGV do
  local name, one = ARGV[i], found[ARGV[i]]
  for _, key in ipairs(redis.call('SRANDMEMBER', P .. 'parked:' .. name, SAMPLE)) do
    one.oldest = math.min(one.oldest, tonumber(read(key).noticed) or now)
  end
  answer[#answer + 1] = {math.floor(one.queued + 0.5), math.floor(one.waiting + 0.5),
                         redis.call('SCARD', P .. 'parked:' .. name),
                         one.oldest == math.huge and -1 or math.max(now - one.oldest, 0), one.exact}
end
return answer
