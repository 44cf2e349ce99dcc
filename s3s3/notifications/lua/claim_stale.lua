-- Claims entries that another consumer of the group has read and not acknowledged for min_idle_ms.
-- KEYS[1]  the stream
-- ARGV     group, consumer, min_idle_ms, cursor, count
--
-- Returns {next_cursor, {{id, fields}, ...}}. An entry without fields has been trimmed; Redis 6.2 keeps it pending.
local group, consumer, min_idle_ms, cursor, count = unpack(ARGV)

local claimed = redis.call('XAUTOCLAIM', KEYS[1], group, consumer, min_idle_ms, cursor, 'COUNT', count, 'JUSTID')
local next_cursor, ids = claimed[1], claimed[2]
local entries = {}
for _, id in ipairs(ids) do
  local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
  entries[#entries + 1] = {id, entry and entry[2] or {}}
end
return {next_cursor, entries}
