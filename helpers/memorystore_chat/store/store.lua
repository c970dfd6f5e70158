-- One namespace's items in the hash KEYS[1], or one node of the index of namespaces. Each call looks at
-- a bounded number of items, whatever is stored. Uses nothing newer than Redis 5.
--
-- i:KEY  an item: place, created, updated (microseconds), time to live, expiry (milliseconds; 0: none), JSON
-- v:KEY  its vectors
-- o:N    who has the CHUNK places from N * CHUNK on: place, key, place, key ...
-- meta   next place; how many items, and how many that never expire; the longest time to live; the chunk
--        that was swept last; when the namespace was noted in the index
--
-- A node has paths of namespaces, and when each was noted (milliseconds). It has room for ROOM; others
-- are in one of 16 nodes below it, by the next digit of the path's SHA-1.

local key, time, ask = KEYS[1], redis.call('TIME'), {}
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local CHUNK, PROBES, BYTES, ROOM, MINUTE = 64, 1000, 2000000, 512, 60000

local function text(number)
  return string.format('%.0f', number)
end

local function load()
  local found = redis.call('HGET', key, 'meta')
  local none = {next = 0, items = 0, lasting = 0, longest = 0, swept = 0, noted = 0}
  return found and cmsgpack.unpack(found) or none
end

local function save(meta)
  if meta.items == 0 then
    redis.call('DEL', key)
  else
    redis.call('HSET', key, 'meta', cmsgpack.pack(meta))
    redis.call(unpack(meta.lasting > 0 and {'PERSIST', key} or {'PEXPIRE', key, text(meta.longest)}))
  end
end

local function chunk(number)
  local found = redis.call('HGET', key, 'o:' .. number)
  return found and cmsgpack.unpack(found) or {}
end

local function find(name)
  local record = redis.call('HGET', key, 'i:' .. name)
  if record then
    local place, created, ttl, expiry = string.match(record, '^(%d+) (%d+) %d+ (%d+) (%d+) ')
    local live = expiry == '0' or tonumber(expiry) > now
    return {place = tonumber(place), created = created, ttl = tonumber(ttl), live = live, record = record}
  end
end

local function remove(meta, name, item)
  local number, kept = math.floor(item.place / CHUNK), {}
  local entries = chunk(number)
  for i = 1, #entries, 2 do
    if entries[i] ~= item.place then
      kept[#kept + 1], kept[#kept + 2] = entries[i], entries[i + 1]
    end
  end
  redis.call('HDEL', key, 'i:' .. name, 'v:' .. name, 'o:' .. number)
  if #kept > 0 then
    redis.call('HSET', key, 'o:' .. number, cmsgpack.pack(kept))
  end
  meta.items, meta.lasting = meta.items - 1, meta.lasting - (item.ttl == 0 and 1 or 0)
end

-- Removes what has expired: of a large namespace, from the next chunks in turn.
local function sweep(meta)
  local chunks, probes = math.ceil(meta.next / CHUNK), 0
  for _ = 1, meta.items > meta.lasting and chunks or 0 do
    if probes > PROBES / 4 then
      return
    end
    meta.swept = (meta.swept + 1) % chunks
    local entries = chunk(meta.swept)
    probes = probes + 1 + #entries / 2
    for i = 2, #entries, 2 do
      local item = find(entries[i])
      if item and not item.live then
        remove(meta, entries[i], item)
      end
    end
  end
end

-- An item's record; if it is to be refreshed, it lives on from now.
local function read(meta, name, item, refresh)
  if refresh == '1' and item.ttl > 0 then
    item.record = string.gsub(item.record, '^(%d+ %d+ %d+ %d+) %d+', '%1 ' .. text(now + item.ttl))
    redis.pcall('HSET', key, 'i:' .. name, item.record) -- a server whose memory is full still reads
    if meta.lasting == 0 then
      redis.call('PEXPIRE', key, text(meta.longest))
    end
  end
  return item.record
end

local function note(node, path)
  local room = redis.call('HLEN', node) < ROOM or redis.call('HEXISTS', node, path) == 1
  return room and redis.call('HSET', node, path, text(now)) ~= nil
end

-- Stores an item, after its namespace was noted: by this call on one server, whose nodes are KEYS[2]
-- and so on; on a cluster by the caller, who says when. A note is renewed each day, as a fail-over may
-- have lost it; and nobody forgets one that is younger than an hour.
function ask.put(name, ttl, noted, path, vectors, value)
  local meta = load()
  if now - meta.noted > 1440 * MINUTE then
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
    meta.noted = now
  end
  sweep(meta)
  local clock, old = time[1] .. string.format('%06d', time[2]), find(name)
  if old and not old.live then
    remove(meta, name, old)
    old = nil
  end
  ttl = tonumber(ttl)
  local place, created = old and old.place or meta.next, old and old.created or clock
  local expiry = ttl > 0 and text(now + ttl) or 0
  local record = table.concat({place, created, clock, text(ttl), expiry, value}, ' ')
  redis.call('HSET', key, 'i:' .. name, record)
  redis.call(unpack(vectors ~= '' and {'HSET', key, 'v:' .. name, vectors} or {'HDEL', key, 'v:' .. name}))
  if not old then
    local number = math.floor(place / CHUNK)
    local entries = chunk(number)
    entries[#entries + 1], entries[#entries + 2] = place, name
    redis.call('HSET', key, 'o:' .. number, cmsgpack.pack(entries))
    meta.next, meta.items = meta.next + 1, meta.items + 1
  elseif old.ttl == 0 then
    meta.lasting = meta.lasting - 1
  end
  meta.lasting, meta.longest = meta.lasting + (ttl == 0 and 1 or 0), math.max(meta.longest, ttl)
  save(meta)
  return 'OK'
end

function ask.delete(name)
  local meta, item = load(), find(name)
  if item then
    remove(meta, name, item)
  end
  sweep(meta)
  save(meta)
  return 'OK'
end

function ask.get(refresh, name)
  local item = find(name)
  return item and item.live and {read(load(), name, item, refresh)} or {}
end

-- Live items from a place on, in order, after some: the place to go on from (-1 at the end), whether
-- there is a hash at all, how many were skipped, and for each its key and its record, vectors or nothing.
function ask.page(what, from, skip, take, refresh)
  local meta, found, probes, bytes, skipped = load(), {}, 0, 0, 0
  from, skip, take = tonumber(from), tonumber(skip), tonumber(take)
  for number = math.floor(from / CHUNK), math.ceil(meta.next / CHUNK) - 1 do
    if probes > PROBES then
      return {number * CHUNK, 1, skipped, found}
    end
    local entries = chunk(number)
    probes = probes + 1 + #entries / 2
    for i = 1, #entries, 2 do
      local place, name = entries[i], entries[i + 1]
      if #found == 2 * take or bytes > BYTES then
        return {math.max(place, from), 1, skipped, found}
      end
      local item = place >= from and find(name)
      bytes = bytes + (item and #item.record or 0)
      if item and item.live and skipped < skip then
        skipped = skipped + 1
      elseif item and item.live then
        local vectors = what == 'vectors' and redis.call('HGET', key, 'v:' .. name) or ''
        found[#found + 1] = name
        found[#found + 1] = what == 'items' and read(meta, name, item, refresh) or vectors
        bytes = bytes + #vectors
      end
    end
  end
  return {-1, redis.call('EXISTS', key), skipped, found}
end

function ask.note(path)
  return note(key, path) and text(now) or 'FULL'
end

function ask.names()
  return {text(now), redis.call('HGETALL', key)}
end

-- Forgets what leads nowhere, unless it was noted again. A node that was full says so ever after.
function ask.forget(path, noted)
  if redis.call('HGET', key, path) == noted then
    if redis.call('HLEN', key) >= ROOM then
      redis.call('HSET', key, '', 0)
    end
    redis.call('HDEL', key, path)
  end
  return 'OK'
end

return ask[ARGV[1]](unpack(ARGV, 2))
