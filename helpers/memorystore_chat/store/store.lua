-- A namespace is the sorted set KEYS[1]. Each call looks at a bounded number of items. For Redis 5 and newer.
-- SCORE                    MEMBER
-- created (microseconds)   'k' and an item's key; no two items share a score
-- created                  MessagePack: updated, time to live (ms; '0': none), JSON, vectors
-- -expiry (milliseconds)   'e' and the key of an item that expires
--
-- What writes has as KEYS[2] the part of the index that lists the namespace's path, with the score 0.

local key, time, ask = KEYS[1], redis.call('TIME'), {}
local path = KEYS[2] and string.sub(key, #KEYS[2] + 1)
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local BYTES = 1000000

local function live(name)
  local expiry = redis.call('ZSCORE', key, 'e' .. name)
  return not expiry or -expiry > now
end

local function remove(name)
  local at = redis.call('ZSCORE', key, 'k' .. name) or 0 -- which is no item's
  redis.call('ZREMRANGEBYSCORE', key, at, at)
  redis.call('ZREM', key, 'e' .. name)
end

-- Removes some of what has expired. A namespace that is empty then is removed from the index; any other lives as
-- long as its items.
function ask.tidy()
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', key, -now, '(0', 'LIMIT', 0, 100)) do
    remove(string.sub(member, 2))
  end
  local members, expiring = redis.call('ZCARD', key), redis.call('ZCOUNT', key, '-inf', '(0')
  if members == 0 then
    redis.call('ZREM', KEYS[2], path)
  elseif members == expiring * 3 then
    redis.call('PEXPIREAT', key, -redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2])
  else
    redis.call('PERSIST', key)
  end
  return 'OK'
end

-- An item, with what has a letter in `what`: its JSON (j), its vectors (v); r begins its time to live anew, after
-- which that is answered as 0.
local function item(name, at, record, what)
  local updated, ttl, json, vectors = unpack(cmsgpack.unpack(record))
  if ttl ~= '0' and string.find(what, 'r') then
    redis.pcall('ZADD', key, -now - ttl, 'e' .. name) -- a server whose memory is full still reads
    ask.tidy()
    ttl = '0'
  end
  return {name, at, updated, ttl, string.find(what, 'j') and json or '', string.find(what, 'v') and vectors or ''}
end

-- Stores an item, or removes it if its JSON is null.
function ask.put(name, ttl, json, vectors)
  if json == 'null' then
    remove(name)
    return ask.tidy()
  end
  local newest = redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')[2] or 0
  local clock = string.format('%.0f', math.max(time[1] * 1000000 + time[2], newest + 1))
  local at = live(name) and redis.call('ZSCORE', key, 'k' .. name) or clock
  redis.call('ZADD', KEYS[2], 0, path) -- a server whose memory is full refuses this, and so all
  remove(name)
  redis.call('ZADD', key, at, 'k' .. name, at, cmsgpack.pack({clock, ttl, json, vectors}))
  if ttl ~= '0' then
    redis.call('ZADD', key, -now - ttl, 'e' .. name)
  end
  return ask.tidy()
end

function ask.get(name, what)
  local at = live(name) and redis.call('ZSCORE', key, 'k' .. name)
  return at and item(name, at, redis.call('ZRANGEBYSCORE', key, at, at)[2], what) or {}
end

-- The time to go on from ('' at the end), and live items created after one, the oldest first; {} for those to skip.
function ask.page(after, skip, most, what)
  local found, bytes = {}, 0
  while #found < tonumber(most) and bytes < BYTES do
    local members = redis.call('ZRANGEBYSCORE', key, '(' .. after, '+inf', 'WITHSCORES', 'LIMIT', 0, 2)
    if #members == 0 then
      return {'', found}
    end
    local name, record = string.sub(members[1], 2), members[3]
    after, bytes = members[2], bytes + #record + 1000 -- as long as a small item takes
    if live(name) then
      found[#found + 1] = #found < tonumber(skip) and {} or item(name, after, record, what)
    end
  end
  return {after, found}
end

return ask[ARGV[1]](unpack(ARGV, 2))
