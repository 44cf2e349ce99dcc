-- ARGV: sample size, names of destinations.
-- Returns for each {queued or running, waiting for a retry, parked, age of the oldest in ms (-1: none), 1 if exact}.
-- Only a key's record knows its destinations, so beyond the sample the numbers are extrapolated from it.
local SAMPLE, pending_of = tonumber(ARGV[2]), {}
for i = 3, #ARGV do pending_of[ARGV[i]] = {queued = 0, retrying = 0, oldest_ms = math.huge, exact = 1} end

-- Parked keys are counted below, by their sets.
local function count(key, record, weight, field)
  for name in each(union(record.destinations, record.rerun)) do
    local pending = pending_of[name]
    if pending and (field ~= 'retrying' or redis.call('SISMEMBER', PREFIX .. 'parked:' .. name, key) == 0) then
      pending[field] = pending[field] + weight
      pending.oldest_ms = math.min(pending.oldest_ms, tonumber(record.notified_ms) or now)
    end
  end
end

-- How many keys each key of the sample represents.
local function sample_weight(total)
  if total <= SAMPLE then return 1 end
  for _, pending in pairs(pending_of) do pending.exact = 0 end
  return total / SAMPLE
end

for _, lane in ipairs({'fresh', 'bulk'}) do
  local weight = sample_weight(redis.call('XLEN', PREFIX .. lane))
  for _, entry in ipairs(redis.call('XRANGE', PREFIX .. lane, '-', '+', 'COUNT', SAMPLE)) do
    local key = entry[2][2]
    local record = read_record(key)
    if record.entry == entry[1] then count(key, record, weight, 'queued') end
  end
end
local weight = sample_weight(redis.call('ZCARD', PREFIX .. 'retries'))
for _, key in ipairs(redis.call('ZRANGE', PREFIX .. 'retries', 0, SAMPLE - 1)) do
  count(key, read_record(key), weight, 'retrying')
end

local result = {}
for i = 3, #ARGV do
  local pending, parked = pending_of[ARGV[i]], PREFIX .. 'parked:' .. ARGV[i]
  for _, key in ipairs(redis.call('SRANDMEMBER', parked, SAMPLE)) do
    pending.oldest_ms = math.min(pending.oldest_ms, tonumber(read_record(key).notified_ms) or now)
  end
  result[#result + 1] = {math.floor(pending.queued + 0.5), math.floor(pending.retrying + 0.5),
                         redis.call('SCARD', parked),
                         pending.oldest_ms == math.huge and -1 or math.max(now - pending.oldest_ms, 0), pending.exact}
end
return result
