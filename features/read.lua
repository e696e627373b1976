-- One field of each of many hashes. See RowOnlineStore.read_bytes.
-- KEYS: the hashes. ARGV: the field of each.
-- Returns the values in that order. HGET says false where there is none: as nil would, it reaches
-- the caller as nothing; unlike nil, it does not end the list.
local values = {}
for i = 1, #KEYS do
  values[i] = redis.call('HGET', KEYS[i], ARGV[i])
end
return values
