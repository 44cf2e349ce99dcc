-- Sends the requests of a file, one after the other: wrk ... -- FILE. Each thread begins at a place of its own.
local requests, at, threads = {}, 0, 0

function setup(thread)
  thread:set('number', threads)
  threads = threads + 1
end

function init(arguments)
  local file = assert(io.open(arguments[1], 'rb'))
  while true do
    local length = file:read('*n')
    if not length then break end
    file:read(1)
    requests[#requests + 1] = file:read(length)
  end
  file:close()
  at = number * 2 * math.floor(#requests / 4)
end

function request()
  at = at % #requests + 1
  return requests[at]
end
