-- The items of one namespace, all in the hash KEYS[1], and the index of namespaces. Each call looks at
-- a bounded number of items, whatever is stored. Uses nothing newer than Redis 5.
--
-- i:KEY  an item: its place, when it was created and updated (microseconds), its time to live and when
--        it expires (milliseconds, 0 for never), and its value as JSON
-- v:KEY  its vectors: how many numbers each has, and the numbers as float32
-- o:N    the places from N * CHUNK, in order: place, key, place, key ...
-- meta   what `load` names
--
-- A node of the index is a hash of paths of namespaces and of when each was noted (milliseconds).
-- What a node has no room for is in one of 16 below it, by the next digit of the path's SHA-1.

local key = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local CHUNK, PROBES, BYTES, ROOM = 64, 1000, 2000000, 512
local MINUTE = 60000
local ask = {}

local function load()
  local found = redis.call('HGET', key, 'meta')
  local m = found and cmsgpack.unpack(found) or {0, 0, 0, 0, 0, 0, 0, 0}
  return {
    next = m[1], items = m[2], lasting = m[3], -- the next place; how many items; how many never expire
    longest = m[4], due = m[5], -- the longest time to live; no item expires before this
    swept = m[6], soonest = m[7], -- a sweep in several calls: the next chunk, the soonest expiry so far
    noted = m[8], -- when the namespace was noted in the index
  }
end

local function save(m)
  if m.items == 0 then
    redis.call('DEL', key)
    return
  end
  local packed = {m.next, m.items, m.lasting, m.longest, m.due, m.swept, m.soonest, m.noted}
  redis.call('HSET', key, 'meta', cmsgpack.pack(packed))
  if m.lasting > 0 then
    redis.call('PERSIST', key)
  else
    redis.call('PEXPIRE', key, string.format('%.0f', m.longest))
  end
end

local function chunk(number)
  local found = redis.call('HGET', key, 'o:' .. number)
  return found and cmsgpack.unpack(found) or {}
end

local function find(name)
  local record = redis.call('HGET', key, 'i:' .. name)
  if record then
    local place, created, _, ttl, expires, value = string.match(record, '^(%d+) (%d+) (%d+) (%d+) (%d+) ()')
    expires = tonumber(expires)
    return {
      place = tonumber(place), created = created, ttl = tonumber(ttl), expires = expires,
      live = expires == 0 or expires > now, record = record, value = value,
    }
  end
end

local function earlier(one, other)
  return one == 0 and other or other == 0 and one or math.min(one, other)
end

local function remove(m, name, item)
  local number, kept = math.floor(item.place / CHUNK), {}
  local entries = chunk(number)
  for i = 1, #entries, 2 do
    if entries[i] ~= item.place then
      kept[#kept + 1], kept[#kept + 2] = entries[i], entries[i + 1]
    end
  end
  redis.call('HDEL', key, 'i:' .. name, 'v:' .. name, #kept == 0 and 'o:' .. number or '')
  if #kept > 0 then
    redis.call('HSET', key, 'o:' .. number, cmsgpack.pack(kept))
  end
  m.items = m.items - 1
  m.lasting = m.lasting - (item.ttl == 0 and 1 or 0)
end

-- Removes what has expired, if anything can have.
local function sweep(m)
  if m.due == 0 or now < m.due then
    return
  end
  local probes = 0
  for number = m.swept, math.floor((m.next - 1) / CHUNK) do
    if probes > PROBES / 4 then
      m.swept = number
      return
    end
    local entries = chunk(number)
    probes = probes + 1 + #entries / 2
    for i = 1, #entries, 2 do
      local item = find(entries[i + 1])
      if item and not item.live then
        remove(m, entries[i + 1], item)
      elseif item then
        m.soonest = earlier(m.soonest, item.expires)
      end
    end
  end
  m.due, m.swept, m.soonest = m.soonest, 0, 0
end

-- The record of an item, which lives on from now if it is to be refreshed.
local function read(m, name, item, refresh)
  if refresh ~= '1' or item.ttl == 0 then
    return item.record
  end
  local head, rest = string.match(item.record, '^(%d+ %d+ %d+ %d+ )%d+( .*)$')
  local record = head .. string.format('%.0f', now + item.ttl) .. rest
  redis.pcall('HSET', key, 'i:' .. name, record) -- with its memory full, a server can still be read
  if m.lasting == 0 then
    redis.call('PEXPIRE', key, string.format('%.0f', m.longest))
  end
  return record
end

local function note(node, path)
  local free = redis.call('HLEN', node) < ROOM or redis.call('HEXISTS', node, path) == 1
  if free then
    redis.call('HSET', node, path, string.format('%.0f', now))
  end
  return free
end

-- Stores an item. The namespace is in the index before: by this call, on one server, whose nodes are
-- KEYS[2] and so on; on a cluster by the caller, `noted` ms ago at most GRACE.
function ask.put(name, ttl, noted, path, vectors, value)
  local m = load()
  ttl = tonumber(ttl)
  if now - m.noted > 1440 * MINUTE then -- again each day: a fail-over may have lost what was noted
    if #KEYS == 1 and now - noted > 10 * MINUTE then
      return 'NEW'
    end
    for i = 2, #KEYS do
      local node, digits = KEYS[i], ''
      while not note(node, path) do
        digits = string.sub(redis.sha1hex(path), 1, #digits + 1)
        node = string.sub(KEYS[i], 1, -3) .. '#' .. digits .. '}#'
      end
    end
    m.noted = now
  end
  sweep(m)
  local old = find(name)
  if old and not old.live then
    remove(m, name, old)
    old = nil
  end
  local place, clock = old and old.place or m.next, time[1] .. string.format('%06d', time[2])
  local expires = ttl > 0 and now + ttl or 0
  local head = {
    place, old and old.created or clock, clock,
    string.format('%.0f', ttl), string.format('%.0f', expires), value,
  }
  redis.call('HSET', key, 'i:' .. name, table.concat(head, ' '))
  if vectors ~= '' then
    redis.call('HSET', key, 'v:' .. name, vectors)
  else
    redis.call('HDEL', key, 'v:' .. name)
  end
  if old then
    m.lasting = m.lasting - (old.ttl == 0 and 1 or 0)
  else
    local number = math.floor(place / CHUNK)
    local entries = chunk(number)
    entries[#entries + 1], entries[#entries + 2] = place, name
    redis.call('HSET', key, 'o:' .. number, cmsgpack.pack(entries))
    m.next, m.items = m.next + 1, m.items + 1
  end
  m.lasting = m.lasting + (ttl == 0 and 1 or 0)
  m.longest = math.max(m.longest, ttl)
  m.due = earlier(m.due, expires)
  m.soonest = m.swept > 0 and earlier(m.soonest, expires) or 0
  save(m)
  return 'OK'
end

function ask.delete(name)
  local m, item = load(), find(name)
  if item then
    remove(m, name, item)
  end
  if m.items > 0 or item then
    sweep(m)
    save(m)
  end
  return 'OK'
end

function ask.get(refresh, ...)
  local m, found = load(), {}
  for i, name in ipairs({...}) do
    local item = find(name)
    found[i] = item and item.live and read(m, name, item, refresh) or false
  end
  return found
end

-- Live items in the order in which they were created, from a place on: the next place (-1 at the end),
-- whether there is a hash at all, how many were skipped and taken, and key and record of each; or
-- with its vectors instead, or only their number.
function ask.page(what, from, skip, take, refresh)
  local m, found, probes, bytes, skipped, taken = load(), {}, 0, 0, 0, 0
  from, skip, take = tonumber(from), tonumber(skip), tonumber(take)
  for number = math.floor(from / CHUNK), math.floor((m.next - 1) / CHUNK) do
    local entries = chunk(number)
    probes = probes + 1
    for i = 1, #entries, 2 do
      if entries[i] >= from then
        if taken == take or probes > PROBES or bytes > BYTES then
          return {entries[i], 1, skipped, taken, found}
        end
        local name = entries[i + 1]
        local item = find(name)
        probes = probes + 1
        bytes = bytes + (item and #item.record or 0)
        if item and item.live and skipped < skip then
          skipped = skipped + 1
        elseif item and item.live then
          taken = taken + 1
          if what ~= 'count' then
            local vectors = what == 'vectors' and (redis.call('HGET', key, 'v:' .. name) or '')
            found[#found + 1] = name
            found[#found + 1] = vectors or read(m, name, item, refresh)
            bytes = bytes + #(vectors or '')
          end
        end
      end
    end
    if probes > PROBES then
      return {(number + 1) * CHUNK, 1, skipped, taken, found}
    end
  end
  return {-1, m.items > 0 and 1 or 0, skipped, taken, found}
end

-- Notes a namespace in a node of the index, and answers when.
function ask.note(path)
  return note(key, path) and string.format('%.0f', now) or 'FULL'
end

function ask.names()
  return {string.format('%.0f', now), redis.call('HGETALL', key)}
end

-- Forgets what leads nowhere, unless it was noted again. A node that was full says so ever after.
function ask.forget(path, noted)
  if redis.call('HGET', key, path) == noted then
    if redis.call('HLEN', key) >= ROOM then
      redis.call('HSET', key, '', '')
    end
    redis.call('HDEL', key, path)
  end
  return 'OK'
end

return ask[ARGV[1]](unpack(ARGV, 2))
