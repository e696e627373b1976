-- Compare-and-set of many hashes: all of them or none. See RowOnlineStore.replace_bytes.
-- KEYS: the hashes to replace, then those that are only compared.
-- ARGV: how many are replaced; their timestamp; for each of them: the field that says what is
-- applied, what it must say, what it will say, timestamp field, value field, value; for each of the
-- others: the field that says what is applied, and what it must say.
-- Returns what has moved; nothing if all is written.
local REPLACED, TIMESTAMP = tonumber(ARGV[1]), ARGV[2]

local function difference(i, at)
  local stored = redis.call('HGET', KEYS[i], ARGV[at]) or ''
  if stored == ARGV[at + 1] then return nil, stored end
  return ARGV[at] .. ' is "' .. stored .. '", not "' .. ARGV[at + 1] .. '"', stored
end

local at, moved, written = 3, nil, true
for i = 1, REPLACED do
  local found, stored = difference(i, at)
  moved = moved or found
  written = written and stored == ARGV[at + 2]
  at = at + 6
end
if written then moved = nil end -- the same call again, whose answer was lost on the way
for i = REPLACED + 1, #KEYS do
  moved = moved or difference(i, at)
  at = at + 2
end
if moved then return moved end

for i = 1, REPLACED do
  at = 3 + (i - 1) * 6
  redis.call('HSET', KEYS[i], ARGV[at], ARGV[at + 2], ARGV[at + 3], TIMESTAMP, ARGV[at + 4], ARGV[at + 5])
end
