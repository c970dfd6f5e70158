-- Gives a list that is complete its own name, unless something else has that; says yes again when
-- it is repeated.
--
-- KEYS[1]  the list under the name it was assembled under
-- KEYS[2]  its own name
-- ARGV[1]  the length it must have
-- ARGV[2]  milliseconds to live, or 0 for no expiry
-- ARGV[3]  1 to replace a list that has the name
--
-- Answers 1, or nil if something else has the name. Uses nothing newer than Redis 5.

local staged, key = KEYS[1], KEYS[2]
local length, ttl = tonumber(ARGV[1]), ARGV[2]
local there = redis.call('TYPE', key).ok

if redis.call('LLEN', staged) ~= length then
  return there == 'list' and redis.call('LLEN', key) >= length
end
if there ~= 'none' and not (there == 'list' and ARGV[3] == '1') then
  redis.call('UNLINK', staged)
  return false
end
-- To its own name it changes nothing: if renaming is refused, nothing is written.
redis.call('RENAME', staged, staged)
if ttl == '0' then
  redis.call('PERSIST', staged)
else
  redis.call('PEXPIRE', staged, ttl)
end
redis.call('RENAME', staged, key)
return true
