-- Runs a command on a session whose newest element is still the same; says yes again when it is
-- repeated.
--
-- KEYS[1]  the session's list
-- ARGV[1]  the SHA-1 of its newest element
-- ARGV[2]  the command; what follows the key in it comes after
--
-- Answers 1, or 0 if the session was appended to meanwhile. Uses nothing newer than Redis 5.

local newest = redis.call('LINDEX', KEYS[1], -1)
if newest and redis.sha1hex(newest) ~= ARGV[1] then
  return 0
end
redis.call(ARGV[2], KEYS[1], unpack(ARGV, 3))
return 1
