-- Appends a batch of elements to a session: all or none, at most once, in one round trip. demand.lua
-- goes in front of it.
--
-- KEYS[1]  the session's list, oldest element first
-- ARGV[1]  seconds to live from now, or 0 to leave the expiry as it is
-- ARGV[2]  how many elements to keep, or 0 for all
-- ARGV[3]  the time of the oldest element that may have followed an earlier try of this batch, as
--          a UUIDv7 begins with it ('019abcde-f012'); '' if the id does not tell its time
-- ARGV[4]  how many elements to search in any case, whatever the clocks say
-- ARGV[5]  how many elements to search at most
-- ARGV[6]  the first element; the rest follow
--
-- Answers the id of the batch, so that the caller sees that the answer is its own. Uses nothing newer
-- than Redis 5.

local key, newest = KEYS[1], ARGV[#ARGV]
local ttl, keep, since = ARGV[1], ARGV[2], ARGV[3]
local always, most = ARGV[4], ARGV[5]

-- Each batch has an id of its own, so equal bytes mean that this batch is stored already: its reply
-- was lost and the client has sent it again.
local function stored_already()
  -- Elements stand in the order in which they were stored, so what stands before an element from
  -- before this batch is no try of it.
  local element = redis.call('LRANGE', key, '-' .. always, '-' .. always)[1]
  -- In a UUIDv7 the time, in the form of ARGV[3].
  local time = string.match(element or '', '^{"id":"(%x%x%x%x%x%x%x%x%-%x%x%x%x)%-7')
  local maximum = time and time < since and always or most
  local found = redis.pcall('LPOS', key, newest, 'RANK', -1, 'MAXLEN', maximum)
  if type(found) ~= 'table' then
    return found ~= false
  end
  -- LPOS came with Redis 6.0.6.
  for _, element in ipairs(redis.call('LRANGE', key, '-' .. maximum, -1)) do
    if element == newest then
      return true
    end
  end
  return false
end

if not stored_already() then
  if keep ~= '0' then
    demand('LTRIM', key, 0, -1)
  end
  if ttl ~= '0' then
    demand('EXPIRE', key, ttl)
  end
  -- unpack() takes fewer than 8,000 values. As few commands as can be: of a transaction that a crash
  -- cut off in the append-only file, Redis 7.0 revives whole commands at the crash after that.
  for first = 6, #ARGV, 7900 do
    redis.call('RPUSH', key, unpack(ARGV, first, math.min(first + 7899, #ARGV)))
  end
  if keep ~= '0' then
    redis.call('LTRIM', key, '-' .. keep, -1)
  end
  if ttl ~= '0' then
    redis.call('EXPIRE', key, ttl)
  end
end
return string.sub(newest, 8, 43)
