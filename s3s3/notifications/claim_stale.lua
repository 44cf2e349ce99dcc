-- Entries of a stream's group that were read and not acknowledged for ARGV[3] ms become this consumer's, ARGV[2].
-- Answers where to go on, and the entries; one without fields has been trimmed away (Redis 6.2 still has it pending).
local page = redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], 'COUNT', ARGV[5], 'JUSTID')
local entries = {}
for _, id in ipairs(page[2]) do
  local found = redis.call('XRANGE', KEYS[1], id, id)[1]
  entries[#entries + 1] = {id, found and found[2] or {}}
end
return {page[1], entries}
