-- Looks at a session, within one moment.
--
-- KEYS[1]  a key
--
-- Answers {} if it holds no list, else its length, seconds to live, and bytes, its oldest element
-- and its newest, and the SHA-1 of that.

local key = KEYS[1]
if redis.call('TYPE', key).ok ~= 'list' then
  return {}
end
local length = redis.call('LLEN', key)
local oldest, newest = redis.call('LINDEX', key, 0), redis.call('LINDEX', key, -1)
local bytes = redis.pcall('MEMORY', 'USAGE', key)
if type(bytes) ~= 'number' then  -- refused
  bytes = length * (#oldest + #newest) / 2
end
return {length, redis.call('TTL', key), bytes, oldest, newest, redis.sha1hex(newest)}
