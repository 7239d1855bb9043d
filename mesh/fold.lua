-- What policy compares a request with, as filter state: the path without its
-- query, that path as rbac.FoldPath folds it, and the host as rbac.FoldHost reads
-- it. The tests hold this to those two functions. A host that cannot be decided
-- upon has no state. The path comes last: after an error in here there is none,
-- and policy refuses a request without a path.

local byte, find, gsub, lower, match, sub =
  string.byte, string.find, string.gsub, string.lower, string.match, string.sub

-- octets are what two hexadecimal digits stand for, where that is ASCII.
local octets = {}
local digits = "0123456789abcdefABCDEF"
for high in string.gmatch(digits, ".") do
  for low in string.gmatch(digits, ".") do
    local b = tonumber(high .. low, 16)
    if b < 0x80 then octets[high .. low] = string.char(b) end
  end
end

-- trim cuts dots and white space off the end, in one pass: a pattern would take the
-- square of a long segment.
local function trim(segment)
  local last = #segment
  while last > 0 do
    local b = byte(segment, last)
    if b ~= 0x2e and b ~= 0x20 and (b < 0x09 or b > 0x0d) then break end
    last = last - 1
  end
  return sub(segment, 1, last)
end

local function fold_path(path)
  for _ = 1, 4 do
    local decoded = gsub(path, "%%(%x%x)", octets)
    if decoded == path then break end
    path = decoded
  end
  path = gsub(path, "\\", "/")
  local stop = find(path, "[?#%z]")
  if stop then path = sub(path, 1, stop - 1) end
  local kept, count, last = {}, 0, ""
  for segment in string.gmatch(path .. "/", "([^/]*)/") do
    local parameters = find(segment, ";", 1, true)
    if parameters then segment = sub(segment, 1, parameters - 1) end
    if segment == ".." and count > 0 then count = count - 1 end
    last = trim(segment)
    if last ~= "" then
      count = count + 1
      kept[count] = last
    end
  end
  local folded = "/" .. table.concat(kept, "/", 1, count)
  if count > 0 and last == "" then folded = folded .. "/" end
  return lower(folded)
end

local function is_port(s) return s == "" or find(s, "^:%d?%d?%d?%d?%d?$") end

local function fold_host(authority)
  local host = lower(authority)
  if sub(host, 1, 1) == "[" then
    local address, port = match(host, "^(%[[0-9a-f:.]+%])(.*)$")
    return address and is_port(port) and address
  end
  local name, port = match(host, "^([^:]*)(.*)$")
  if sub(name, -1) == "." then name = sub(name, 1, -2) end
  return is_port(port) and find(name, "^[a-z0-9_-][a-z0-9._-]*$") and
    not find(name, "..", 1, true) and sub(name, -1) ~= "." and name
end

function envoy_on_request(handle)
  local headers, state = handle:headers(), handle:streamInfo():filterState()
  local path, authority = headers:get(":path"), headers:get(":authority")
  if not path then return end
  -- A client sends one line (RFC 6265 section 5.4). Of two, Envoy verifies the
  -- first one's token, and the application takes which it likes.
  if headers:getNumValues("cookie") > 1 then
    handle:respond({[":status"] = "400"}, "")
    return
  end
  local query = find(path, "?", 1, true)
  if query then path = sub(path, 1, query - 1) end
  local host = authority and fold_host(authority)
  if host then state:set("istio-auth.host", "envoy.string", host) end
  state:set("istio-auth.fold", "envoy.string", fold_path(path))
  state:set("istio-auth.path", "envoy.string", path)
end
