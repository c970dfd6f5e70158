-- Runs a command on a session that is as it was listed; answers the same when it is repeated.
--
-- KEYS[1]  the session's list
-- ARGV[1]  its number of elements
-- ARGV[2]  the SHA-1 of its newest element
-- ARGV[3]  the command; what follows the key in it comes after
--
-- Answers 1, or 0 if something else is there now.

local key = KEYS[1]
local kind = redis.call('TYPE', key).ok
if kind ~= 'none' and (kind ~= 'list' or redis.call('LLEN', key) ~= tonumber(ARGV[1])
    or redis.sha1hex(redis.call('LINDEX', key, -1)) ~= ARGV[2]) then
  return 0
end
redis.call(ARGV[3], key, unpack(ARGV, 4))
return 1
