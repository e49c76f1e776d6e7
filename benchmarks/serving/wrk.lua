-- Asks with a body of which no two are alike; prints the figures as one line of JSON.
-- Arguments: the file of the bytes before the number, the file of those after it, the first number.
local head, tail, number

function init(args)
  local function read(path)
    local file = assert(io.open(path, "rb"))
    local content = file:read("*a")
    file:close()
    return content
  end
  head, tail, number = read(args[1]), read(args[2]), tonumber(args[3])
end

function request()
  number = number + 1
  return head .. string.format("%.3f", 1000 + number % 5000000 / 1000) .. tail
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'FIGURES {"requests": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "max_ms": %.3f, "failed": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    latency.max / 1e3, errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
