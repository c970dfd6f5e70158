-- Writes a session, or what it lacks at its end: all or none, and repeating it changes nothing.
--
-- KEYS[1]  the session's list
-- ARGV[1]  milliseconds to live, or 0 to leave the expiry as it is
-- ARGV[2]  1 to write nothing
-- ARGV[3]  the first element; the rest follow
--
-- Answers how many of the elements were there, or -1 if something else is.

local key, ttl, number = KEYS[1], ARGV[1], #ARGV - 2
local kind = redis.call('TYPE', key).ok
if kind ~= 'none' and kind ~= 'list' then
  return -1
end
local present = redis.call('LRANGE', key, 0, number - 1)
for i, element in ipairs(present) do
  if element ~= ARGV[2 + i] then
    return -1
  end
end
if #present == number or ARGV[2] == '1' then
  return #present
end
if ttl ~= '0' then
  redis.call('PEXPIRE', key, ttl)  -- if it is refused, it is before anything is written
end
for first = 3 + #present, #ARGV, 5000 do  -- unpack() takes fewer than 8,000 values
  redis.call('RPUSH', key, unpack(ARGV, first, math.min(first + 4999, #ARGV)))
end
if ttl ~= '0' then
  redis.call('PEXPIRE', key, ttl)
end
return #present
