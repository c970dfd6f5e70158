-- Writes elements at the end of a list that has a known length: all or none, and repeating it
-- changes nothing.
--
-- KEYS[1]  the list
-- KEYS[2]  left out, or a key that does not exist, in the slot of the list
-- ARGV[1]  the length that the list must have
-- ARGV[2]  milliseconds to live, or 0 to leave the expiry as it is
-- ARGV[3]  1 to delete the list first, 0 to leave what it has
-- ARGV[4]  the first element; the rest follow
--
-- Answers the length of the list. Uses nothing newer than Redis 5.

local key, length, ttl = KEYS[1], tonumber(ARGV[1]), ARGV[2]

if ARGV[3] == '1' then
  redis.call('UNLINK', key)
end
if redis.call('LLEN', key) == length then
  if ttl ~= '0' then
    -- On a key that does not exist it changes nothing: if it is refused, nothing is written.
    redis.call('PEXPIRE', KEYS[2] or key, ttl)
  end
  -- unpack() takes fewer than 8,000 values.
  for first = 4, #ARGV, 5000 do
    redis.call('RPUSH', key, unpack(ARGV, first, math.min(first + 4999, #ARGV)))
  end
  if ttl ~= '0' then
    redis.call('PEXPIRE', key, ttl)
  end
end
return redis.call('LLEN', key)
