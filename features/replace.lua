-- Compare-and-set of many hashes: all of them or none. See RowOnlineStore.replace_bytes.
-- KEYS: the hashes to replace, then those that are only compared.
-- ARGV: what is the same for all: how many are replaced; their timestamp; the fields of what is
-- applied to them, of their timestamp and of their value. Then for each that is replaced: what must
-- be applied, what will be, the value; for each other: the field of what is applied, what must be.
-- Returns what has moved; nothing if all is written.
local REPLACED, TIMESTAMP = tonumber(ARGV[1]), ARGV[2]
local APPLIED, TIMESTAMP_FIELD, VALUE_FIELD = ARGV[3], ARGV[4], ARGV[5]
local FIRST = 6
local FIRST_OTHER = FIRST + REPLACED * 3

local function difference(i, field, expected)
  local stored = redis.call('HGET', KEYS[i], field) or ''
  if stored == expected then return nil, stored end
  return field .. ' is "' .. stored .. '", not "' .. expected .. '"', stored
end

local moved, written = nil, true
for i = 1, REPLACED do
  local at = FIRST + (i - 1) * 3
  local found, stored = difference(i, APPLIED, ARGV[at])
  moved = moved or found
  written = written and stored == ARGV[at + 1]
end
if written then moved = nil end -- the same call again, whose answer was lost on the way
for i = REPLACED + 1, #KEYS do
  local at = FIRST_OTHER + (i - REPLACED - 1) * 2
  moved = moved or difference(i, ARGV[at], ARGV[at + 1])
end
if moved then return moved end

for i = 1, REPLACED do
  local at = FIRST + (i - 1) * 3
  redis.call('HSET', KEYS[i], APPLIED, ARGV[at + 1], TIMESTAMP_FIELD, TIMESTAMP, VALUE_FIELD, ARGV[at + 2])
end
