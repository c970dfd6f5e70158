-- Stores and reads the checkpoints of one thread. It goes after demand.lua, and runs on Redis 5.
--
-- KEYS[1]  the hash that holds all of the thread
-- ARGV     the name of what is asked for, its arguments as one MessagePack array, and fields that
--          the thread may lack, each with its text
--
-- Fields of the hash. NAME is a namespace, a NUL, and a checkpoint's ID; a digest is 16 bytes.
--   s DIGEST  an element of a list, or all of another value
--   k DIGEST  a node of a list: the names of eight elements, or of eight nodes
--   c NAME    a checkpoint; `needs` is the field of its parent, if it is computed from that
--   w NAME    what its tasks wrote: {{names, rest, channel, task, path, index}, ...}
--   h NAME    the namespaces of sub-graphs that go when this checkpoint goes
--   i NAMESPACE NUL PLACE  the ID that was put there, and after a NUL its rank if that isn't the ID
--   n NAMESPACE  its first and last place, its count, the head's ID and rank, and IDs that went last
--   r FIELD   how many others refer to a field, where that isn't one
--   d         fields that wait to lose a reference, and namespaces that wait to be dropped
--   #         the count of all checkpoints
-- c, w, h, n, and d are records: a checksum, and MessagePack. A channel is {names, rest, name,
-- version}: the fields that its value refers to, one after the other, and what is the client's own.
-- A rest of one character says that there is no value: "d" for a delta channel, "?" for others.
--
-- A field goes with the last that refers to it, so nothing is ever searched for what may go. All
-- changes are planned in memory and written at the end.

local BUDGET = 1500 -- fields that a call may drop; the rest waits for the next one
local LATE = 8      -- IDs of a namespace that tasks may write to after their checkpoint went

local key = KEYS[1]
local cache, dirty = {}, {} -- fields as read or to be written, false for none; and which to write
local sent, lacking, work = {}, false, 0

local function get(field)
  if cache[field] == nil then cache[field] = redis.call('HGET', key, field) end
  return cache[field]
end

local function set(field, value)
  cache[field], dirty[field] = value, true
end

-- A record, {} if there is none.
local function record(field)
  local found = get(field) or {}
  if type(found) == 'string' then
    local text = found:sub(9)
    if redis.sha1hex(text):sub(1, 8) ~= found:sub(1, 8) then error({'DAMAGED', field}) end
    found = cmsgpack.unpack(text)
  end
  cache[field] = found
  return found
end

-- Adds to the end of a record.
local function append(field, value)
  set(field, record(field))
  table.insert(cache[field], value)
end

-- A namespace's record, which is written with what changes.
local function space(ns)
  local found = record('n' .. ns)
  dirty['n' .. ns] = true
  if not found.first then
    found.first, found.last, found.count, found.head, found.rank, found.gone = 1, 0, 0, '', '', {}
  end
  return found
end

local function place_field(ns, place)
  return 'i' .. ns .. '\0' .. string.format('%d', place)
end

-- The field of a checkpoint's place, which is there as long as it is listed.
local function place_of(ns, id)
  return place_field(ns, record('c' .. ns .. '\0' .. id).place or 0)
end

-- The ID and the rank that a place's field holds.
local function id_and_rank(there)
  local id, rank = there:match('^([^%z]*)%z?(.*)$')
  return id, rank ~= '' and rank or id
end

-- Adds the names of fields in a text to a list.
local function cut(names, into)
  for at = 1, #names - 16, 17 do into[#into + 1] = names:sub(at, at + 16) end
  return into
end

-- Adds the fields that a checkpoint, its channels, or writes refer to.
local function references(one, into)
  into[#into + 1] = one.needs
  for _, each in ipairs(one.channels or one) do cut(each[1], into) end
  return into
end

-- Counts one more reference to each field, and stores those that are new, from what was sent.
local function retain(fields)
  for _, field in ipairs(fields) do
    local number = get('r' .. field)
    if number then
      set('r' .. field, number + 1)
    elseif get(field) then
      set('r' .. field, 2)
    elseif sent[field] then
      set(field, sent[field])
      if field:sub(1, 1) == 'k' then retain(cut(sent[field], {})) end
    else
      lacking = true
    end
  end
end

-- Takes a checkpoint off the list, by the field of its place; it goes, unless others need it.
local function drop(ns, id, place)
  local numbers = space(ns)
  numbers.count = numbers.count - 1
  set('#', get('#') - 1)
  set(place, false)
  table.insert(numbers.gone, id)
  if #numbers.gone > LATE then table.remove(numbers.gone, 1) end
  append('d', 'c' .. ns .. '\0' .. id)
end

-- Drops what was put first. Answers false at the head, and where nothing is left.
local function drop_first(ns)
  local numbers = space(ns)
  local place = place_field(ns, numbers.first)
  local id = get(place) and id_and_rank(get(place))
  if numbers.first > numbers.last or id and id == numbers.head then return false end
  numbers.first, work = numbers.first + 1, work + 1
  if id then drop(ns, id, place) end
  return true
end

-- Counts one reference less to each field that waits for it, as far as the budget goes. What has
-- none left goes, and all that hangs on it waits in its turn.
local function release()
  local waiting = record('d')
  set('d', waiting)
  while #waiting > 0 and work < BUDGET do
    work = work + 1
    local field = table.remove(waiting)
    local number, kind, name = get('r' .. field), field:sub(1, 1), field:sub(2)
    if number then
      set('r' .. field, tonumber(number) > 2 and number - 1)
    elseif kind == 'n' then
      space(name).head = ''
      append('d', field) -- below what is dropped of it
      if not drop_first(name) then set(table.remove(waiting), false) end
    else
      if kind == 'k' then
        cut(get(field) or '', waiting)
      elseif kind == 'c' then
        references(record(field), waiting)
        references(record('w' .. name), waiting)
        for _, ns in ipairs(record('h' .. name)) do append('d', 'n' .. ns) end
        set('w' .. name, false)
        set('h' .. name, false)
      end
      set(field, false)
    end
  end
end

-- Writes what was planned, once all that follows is found to be allowed.
local function flush(ttl)
  release()
  demand('HDEL', key, 'd')
  if ttl > 0 then demand('EXPIRE', key, ttl) end
  local gone = {}
  for field in pairs(dirty) do
    local value = cache[field]
    if type(value) == 'table' then
      local text = cmsgpack.pack(value)
      value = next(value) ~= nil and redis.sha1hex(text):sub(1, 8) .. text
    end
    if value then redis.call('HSET', key, field, value) else gone[#gone + 1] = field end
  end
  for _, field in ipairs(gone) do redis.call('HDEL', key, field) end
  if ttl > 0 then redis.call('EXPIRE', key, ttl) end
end

-- The lengths of fields and of all that they refer to, in four bytes each, and their texts; about as
-- many as are wanted.
local function contents(names, most)
  local lengths, texts, seen, last = {}, {}, {}, 0
  while last < #names and last < most do -- to which those below are added
    local before = last
    last = math.min(before + 1000, #names)
    for index, text in ipairs(redis.call('HMGET', key, unpack(names, before + 1, last))) do
      local name = names[before + index]
      if text and not seen[name] then
        seen[name] = true
        lengths[#lengths + 1], texts[#texts + 1] = struct.pack('>I4', #text), text
        if name:byte() == 107 then cut(text, names) end -- a "k"
      end
    end
  end
  return table.concat(lengths), table.concat(texts)
end

local ask = {}

-- Stores a checkpoint. In place of a rest, "=" stands for the value that the parent has of that
-- version; "?" for that or none; and "d" for that, or it is computed from the parent. Asks for all
-- values if what is needed is neither sent nor stored.
function ask.put(ttl, keep, ns, id, parent, root, metadata, body, channels)
  local name, numbers, known, needs = ns .. '\0' .. id, space(ns), {}, nil
  local old = record('c' .. name)
  parent = old.parent or parent
  local before = record('c' .. ns .. '\0' .. parent)
  for _, one in ipairs({before, old}) do
    for _, channel in ipairs(one.channels or {}) do
      if channel[2] ~= '?' then known[channel[3] .. '\0' .. channel[4]] = channel end
    end
  end
  for index, channel in ipairs(channels) do
    if #channel[2] == 1 then
      local same = known[channel[3] .. '\0' .. channel[4]] or channel
      lacking = lacking or channel[2] == '=' and #same[2] == 1
      -- Also one of a graph that lacks the delta channel, which leaves it to the next that has it.
      needs = needs or same[2] == 'd' and before.place and 'c' .. ns .. '\0' .. parent or nil
      channels[index] = same
    end
  end
  local new = {place = old.place, parent = parent, needs = needs, body = body}
  new.metadata, new.channels = metadata, channels
  retain(references(new, {}))
  if lacking then return {'RESEND'} end
  references(old, record('d'))
  if not new.place then
    numbers.count, numbers.last = numbers.count + 1, numbers.last + 1
    set('#', (get('#') or 0) + 1)
    new.place = numbers.last
    local rank = id
    -- Lua compares as the locale does; that is all the same for LangGraph's IDs.
    if parent ~= '' and parent == numbers.head and id <= numbers.rank then
      rank = numbers.rank:match('^[^%z]*') .. '\0' .. string.format('%010d', new.place)
    end
    if rank > numbers.rank then numbers.head, numbers.rank = id, rank end
    set(place_field(ns, new.place), rank == id and id or id .. '\0' .. rank)
  end
  set('c' .. name, new)
  if root ~= '' and numbers.last == 1 then append('h\0' .. root, ns) end -- a sub-graph's first
  while keep > 0 and numbers.count > keep and work < BUDGET and drop_first(ns) do release() end
  flush(ttl)
  return {'OK'}
end

-- Stores what a task wrote, before or after its checkpoint arrives, but not after that was dropped.
function ask.put_writes(ttl, ns, id, given)
  local name, places, replaced = ns .. '\0' .. id, {}, {}
  for _, gone in ipairs(record('c' .. name).place and {} or space(ns).gone) do
    if gone == id then return {'OK'} end
  end
  local writes, added = record('w' .. name), {}
  for at, one in ipairs(writes) do places[one[4] .. '\0' .. one[6]] = at end
  for _, one in ipairs(given) do
    local place = one[4] .. '\0' .. one[6]
    local at = places[place]
    -- Those with a negative index, such as an error, replace what is there.
    if not at or one[6] < 0 then
      at = at or #writes + 1
      replaced[#replaced + 1], added[#added + 1] = writes[at], one
      writes[at], places[place] = one, at
    end
  end
  set('w' .. name, writes)
  retain(references(added, {}))
  if lacking then return {'RESEND'} end
  references(replaced, record('d'))
  flush(ttl)
  return {'OK'}
end

-- A checkpoint as the client takes it, if it is there; the head if no ID is given. Only one that was
-- put before is its parent, so that no chain of them is a circle.
local function row(ns, id)
  local head = space(ns).head
  id = id ~= '' and id or head
  local one = record('c' .. ns .. '\0' .. id)
  if not one.place then
    return id ~= '' and id == head and error({'DAMAGED', 'c' .. ns .. '\0' .. id}) or nil
  end
  local before = record('c' .. ns .. '\0' .. one.parent).place or one.place
  local parent = before < one.place and one.parent or ''
  return {id, parent, one.body, one.metadata, one.channels, record('w' .. ns .. '\0' .. id)}
end

-- Checkpoints, '' for one that is not there; and fields, with some of what is below them. A single
-- checkpoint comes with all that it refers to.
function ask.rows(ttl, names, fields)
  local rows = {}
  for index, name in ipairs(names) do
    local found = row(name[1], name[2])
    rows[index] = found or ''
    if found and #names == 1 then references(found[6], references(found[5], fields)) end
  end
  if ttl > 0 and rows[1] ~= '' then redis.call('EXPIRE', key, ttl) end
  return {'OK', rows, contents(fields, #names == 1 and math.huge or 3000)}
end

-- Some of the places; and where to go on, "0" at the end. A key of another kind may be a session.
function ask.places(cursor)
  if type(redis.pcall('HLEN', key)) ~= 'number' then return {'OK', {'0', {}}} end
  return {'OK', redis.call('HSCAN', key, cursor, 'MATCH', 'i*', 'COUNT', '2000')}
end

-- Drops checkpoints; if the head goes, `following` is the next. Answers whether nothing waits.
function ask.drop(ns, ids, following)
  local numbers = space(ns)
  for _, id in ipairs(ids) do
    local place = place_of(ns, id)
    if get(place) then
      if id == numbers.head then
        numbers.head, numbers.rank = id_and_rank(get(place_of(ns, following)) or '')
      end
      drop(ns, id, place)
    end
  end
  release()
  local is_done = #record('d') == 0
  if is_done and tonumber(get('#') or 0) == 0 then
    redis.call('UNLINK', key)
  else
    flush(0)
  end
  return {'OK', is_done and 1 or 0}
end

-- How many checkpoints, seconds to live, and bytes there are; and the newest, if there is one.
function ask.about()
  local fields, bytes = redis.pcall('HLEN', key), redis.pcall('MEMORY', 'USAGE', key)
  if type(fields) ~= 'number' or fields == 0 then return {'OK'} end
  local size = type(bytes) == 'number' and bytes or 0
  return {'OK', tonumber(get('#') or 0), redis.call('TTL', key), size, row('', '')}
end

-- Deletes the thread, but not a key of another kind.
function ask.delete()
  redis.call('HLEN', key)
  redis.call('UNLINK', key)
  return {'OK'}
end

for index = 3, #ARGV, 2 do sent[ARGV[index]] = ARGV[index + 1] end
local _, reply = pcall(ask[ARGV[1]], unpack(cmsgpack.unpack(ARGV[2])))
return type(reply) == 'table' and reply or {err = (tostring(reply):gsub('^ERR ', ''))}
