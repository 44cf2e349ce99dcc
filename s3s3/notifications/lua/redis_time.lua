-- Returns the time (Unix, ms) by the clock of the server that has the route's keys, also in a cluster.
-- KEYS[1]  prefix of the route's keys
local clock = redis.call('TIME')
return clock[1] * 1000 + math.floor(clock[2] / 1000)
