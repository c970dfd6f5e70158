-- A namespace is the sorted set KEYS[1]. Each call looks at a bounded number of items. For Redis 5 and newer.
-- SCORE                    MEMBER
-- created (microseconds)   'k' and an item's key; no two items share a score
-- created                  'r', updated, time to live (ms; 0: none), length of the JSON, created, it, the vectors
-- noted (milliseconds)     'n': when the namespace was noted in the index
-- -expiry (milliseconds)   'e' and the key of an item that expires
--
-- A shard of the index is a sorted set too: paths, by when they were noted.

local key, time, ask = KEYS[1], redis.call('TIME'), {}
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local BYTES, MINUTE = 1000000, 60000
local ITEMS = '1e13' -- above all milliseconds, and below all microseconds

local function live(name)
  local expiry = redis.call('ZSCORE', key, 'e' .. name)
  return not expiry or -expiry > now
end

local function remove(name)
  local created = redis.call('ZSCORE', key, 'k' .. name)
  if created then
    redis.call('ZREMRANGEBYSCORE', key, created, created)
    redis.call('ZREM', key, 'e' .. name)
  end
end

-- Removes some of what has expired. The namespace goes by itself when its last item does.
local function settle(most)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', key, -now, '(0', 'LIMIT', 0, most)) do
    remove(string.sub(member, 2))
  end
  local items = redis.call('ZCOUNT', key, ITEMS, '+inf') / 2
  if items == 0 then
    redis.call('DEL', key)
  elseif redis.call('ZCOUNT', key, '-inf', '(0') < items then
    redis.call('PERSIST', key)
  else
    redis.call('PEXPIREAT', key, -redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2])
  end
end

-- An item, with what has a letter in `what`: its JSON (j), its vectors (v); r begins its time to live anew, after
-- which that is answered as 0.
local function item(name, created, record, what)
  local updated, ttl, length, start = string.match(record, '^r(%d+) (%d+) (%d+) %S+ ()')
  if ttl ~= '0' and string.find(what, 'r') then
    redis.pcall('ZADD', key, -now - ttl, 'e' .. name) -- a server whose memory is full still reads
    settle(0)
    ttl = '0'
  end
  local json = string.find(what, 'j') and string.sub(record, start, start + length - 1) or ''
  local vectors = string.find(what, 'v') and string.sub(record, start + length) or ''
  return {name, created, updated, ttl, json, vectors}
end

-- Stores an item, after its namespace was noted: by this call on one server, where KEYS[2] and so on are the
-- shards; on a cluster by the caller, who says when. It is noted anew each day: a failover may have lost the note.
function ask.put(name, path, ttl, json, vectors, noted)
  if now - (redis.call('ZSCORE', key, 'n') or 0) > 1440 * MINUTE then
    if #KEYS == 1 and now - noted > MINUTE then
      return 'NEW'
    end
    for i = 2, #KEYS do
      redis.call('ZADD', KEYS[i], now, path)
    end
    redis.call('ZADD', key, now, 'n')
  end
  if not live(name) then
    remove(name)
  end
  local newest = redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')[2]
  local clock = string.format('%.0f', math.max(time[1] * 1000000 + time[2], newest + 1))
  local created = redis.call('ZSCORE', key, 'k' .. name) or clock
  local old = redis.call('ZRANGEBYSCORE', key, created, created)[2]
  local record = table.concat({'r' .. clock, ttl, #json, created, json .. vectors}, ' ')
  redis.call('ZADD', key, created, 'k' .. name, created, record)
  if old and old ~= record then
    redis.call('ZREM', key, old)
  end
  redis.call(unpack(ttl == '0' and {'ZREM', key, 'e' .. name} or {'ZADD', key, -now - ttl, 'e' .. name}))
  settle(100)
  return 'OK'
end

function ask.delete(name, path)
  remove(name)
  settle(100)
  if redis.call('EXISTS', key) == 1 then
    return 'OK'
  end
  for i = 2, #KEYS do
    redis.call('ZREM', KEYS[i], path)
  end
  return #KEYS > 1 and 'OK' or 'EMPTY'
end

function ask.get(name, what)
  local created = redis.call('ZSCORE', key, 'k' .. name)
  local record = created and live(name) and redis.call('ZRANGEBYSCORE', key, created, created)[2]
  return record and item(name, created, record, what) or {}
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

function ask.note(path)
  redis.call('ZADD', key, now, path)
  return now
end

-- Nobody forgets what is younger than ten minutes, and so nothing between its being noted and its item.
function ask.forget(path)
  if now - (redis.call('ZSCORE', key, path) or now) > 10 * MINUTE then
    redis.call('ZREM', key, path)
  end
  return 'OK'
end

return ask[ARGV[1]](unpack(ARGV, 2))
