-- Runs a command on a session that is as it was listed; answers the same when it is repeated.
--
-- KEYS[1]  the session's list
-- ARGV[1]  its number of elements
-- ARGV[2]  the SHA-1 of its newest element
-- ARGV[3]  the command; what follows the key in it comes after
--
-- Answers 1, or 0 if the session was changed meanwhile.

local newest = redis.call('LINDEX', KEYS[1], -1)
local length = redis.call('LLEN', KEYS[1])
if newest and (length ~= tonumber(ARGV[1]) or redis.sha1hex(newest) ~= ARGV[2]) then
  return 0
end
redis.call(ARGV[3], KEYS[1], unpack(ARGV, 4))
return 1
