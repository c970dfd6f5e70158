-- Appends a batch of elements to a session: all or none, at most once, in one round trip.
--
-- KEYS[1]  the session's list, oldest element first
-- ARGV[1]  seconds to live from now, or 0 to leave the expiry as it is
-- ARGV[2]  how many elements to keep, or 0 for all
-- ARGV[3]  how many of the newest elements to search for an earlier try of this batch
-- ARGV[4]  the first element; the rest follow
--
-- Answers the length of the list. Uses nothing newer than Redis 5.

local key, newest = KEYS[1], ARGV[#ARGV]
local ttl, keep, depth = ARGV[1], ARGV[2], ARGV[3]

-- Every batch carries an id of its own, so equal bytes mean that this batch is stored already: its
-- reply was lost and the client has sent it again.
local function stored_already()
  local found = redis.pcall('LPOS', key, newest, 'RANK', -1, 'MAXLEN', depth)
  if type(found) ~= 'table' then
    return found ~= false
  end
  -- LPOS came with Redis 6.0.6; LRANGE also reports a key of another type.
  local tail = redis.call('LRANGE', key, '-' .. depth, -1)
  for i = #tail, 1, -1 do
    if tail[i] == newest then
      return true
    end
  end
  return false
end

if not stored_already() then
  -- unpack() takes fewer than 8,000 values. As few commands as can be: of a transaction that a crash
  -- cut off in the append-only file, Redis 7.0 revives whole commands at the crash after that.
  for first = 4, #ARGV, 7900 do
    redis.call('RPUSH', key, unpack(ARGV, first, math.min(first + 7899, #ARGV)))
  end
  if keep ~= '0' then
    redis.call('LTRIM', key, '-' .. keep, -1)
  end
  if ttl ~= '0' then
    redis.call('EXPIRE', key, ttl)
  end
end
return redis.call('LLEN', key)
