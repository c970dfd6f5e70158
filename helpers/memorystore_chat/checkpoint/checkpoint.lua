-- Stores and reads the checkpoints of one thread. It goes after demand.lua, and uses nothing newer
-- than Redis 5.
--
-- KEYS[1]  the hash that holds all of the thread
-- ARGV     the name of what is asked for, its arguments as one MessagePack array, and fields that
--          the thread may lack, each with its text
--
-- Fields of the hash. NAME is a namespace, a NUL, and a checkpoint's ID; a digest is 16 bytes.
--   s DIGEST  an element of a list, or all of another value
--   k DIGEST  a node of a list: the names of eight elements, or of eight nodes
--   c NAME    a checkpoint; `deltas` are its delta channels without a value, and with `needs` it is
--             computed from its parent
--   w NAME    what its tasks wrote: {{task, path, index, channel, names, rest}, ...}
--   h NAME    the namespaces of sub-graphs that go when this checkpoint goes
--   i NAMESPACE NUL PLACE  the ID that was put there, and after a NUL its rank if that isn't the ID
--   n NAMESPACE  its first and last place, its count, the head's ID and rank, and IDs that went last
--   r FIELD   how many others refer to a field, where that isn't one
--   d         the namespaces that wait to be dropped
--   #         the count of all checkpoints
-- c, w, h, n, and d are records: a checksum, and MessagePack. A channel is {name, version, names,
-- rest}: the fields that its value refers to, one after the other, and what is the client's own;
-- or {name, version} without a value.
--
-- A field goes with the last that refers to it, so nothing is ever searched for what may go. All
-- changes are planned in memory and written at the end.

local BUDGET = 1500 -- what a call may drop, counted in fields; the rest waits for the next one
local LATE = 8      -- IDs of a namespace that tasks may write to after their checkpoint went

local key = KEYS[1]
local cache, dirty = {}, {} -- fields as read or to be written, false for none; and which to write
local sent, lacking, broken = {}, false, nil
local work = 0

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
    if redis.sha1hex(text):sub(1, 8) ~= found:sub(1, 8) then
      broken = field
      error('damaged')
    end
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

-- A namespace's record.
local function space(ns)
  local found = record('n' .. ns)
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

-- Counts that a namespace has a checkpoint more or less.
local function count(ns, by)
  local numbers = space(ns)
  numbers.count, dirty['n' .. ns] = numbers.count + by, true
  set('#', (get('#') or 0) + by)
end

-- Adds the names of fields in a text to a list.
local function cut(names, into)
  for at = 1, #names - 16, 17 do into[#into + 1] = names:sub(at, at + 16) end
  return into
end

-- Adds the fields that channels refer to, or at another index what writes do.
local function references(channels, index, into)
  for _, channel in ipairs(channels or {}) do cut(channel[index] or '', into) end
  return into
end

-- Adds the fields that a checkpoint refers to, perhaps its parent.
local function references_of_checkpoint(ns, one, into)
  if one.needs then into[#into + 1] = 'c' .. ns .. '\0' .. one.parent end
  return references(one.channels, 3, into)
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

-- Counts one reference less to each field. What has none left goes, with all that hangs on it.
local function release(fields)
  while #fields > 0 do
    local field = table.remove(fields)
    local number, kind, name = get('r' .. field), field:sub(1, 1), field:sub(2)
    work = work + 1
    if number then
      set('r' .. field, tonumber(number) > 2 and number - 1)
    else
      if kind == 'k' then
        cut(get(field) or '', fields)
      elseif kind == 'c' then
        references_of_checkpoint(name:match('^[^%z]*'), record(field), fields)
        references(record('w' .. name), 5, fields)
        for _, ns in ipairs(record('h' .. name)) do append('d', ns) end
        set('w' .. name, false)
        set('h' .. name, false)
      end
      set(field, false)
    end
  end
end

-- Takes a checkpoint off the list, by the field of its place; it goes, unless others need it.
local function drop(ns, id, place)
  local gone = space(ns).gone
  count(ns, -1)
  set(place, false)
  table.insert(gone, id)
  if #gone > LATE then table.remove(gone, 1) end
  release({'c' .. ns .. '\0' .. id})
end

-- Drops what was put first until `keep` are left, or until the head comes. Answers whether it is
-- done.
local function thin(ns, keep)
  local numbers = space(ns)
  while numbers.count > keep and numbers.first <= numbers.last do
    if work >= BUDGET then return false end
    work = work + 1
    local place = place_field(ns, numbers.first)
    local id = get(place) and id_and_rank(get(place))
    if id and id == numbers.head then return true end
    numbers.first = numbers.first + 1
    dirty['n' .. ns] = true
    if id then drop(ns, id, place) end
  end
  return true
end

-- Drops the namespaces that wait for it. Answers whether none is left.
local function drop_waiting()
  local waiting = record('d')
  while #waiting > 0 do
    local ns = waiting[#waiting]
    space(ns).head = ''
    if not thin(ns, 0) then return false end
    table.remove(waiting)
    set('d', waiting)
    set('n' .. ns, false)
  end
  return true
end

-- Runs a command on so many values that a script cannot pass them at once.
local function write(command, values)
  for first = 1, #values, 7000 do
    redis.call(command, key, unpack(values, first, math.min(first + 6999, #values)))
  end
end

-- Writes what was planned, once all that follows is found to be allowed.
local function flush(ttl)
  local sets, gone = {}, {}
  for field in pairs(dirty) do
    local value = cache[field]
    if type(value) == 'table' then
      local text = cmsgpack.pack(value)
      value = next(value) ~= nil and redis.sha1hex(text):sub(1, 8) .. text
    end
    if value then
      sets[#sets + 1] = field
      sets[#sets + 1] = value
    else
      gone[#gone + 1] = field
    end
  end
  if #gone > 0 then demand('HDEL', key, gone[1]) end
  if ttl > 0 then demand('EXPIRE', key, ttl) end
  write('HSET', sets)
  write('HDEL', gone)
  if ttl > 0 then redis.call('EXPIRE', key, ttl) end
end

-- The lengths of fields, in four bytes each, and their texts; if deep, also of all they refer to.
local function contents(names, is_deep)
  local lengths, texts, seen, first = {}, {}, {}, 1
  while first <= #names do
    local part = {unpack(names, first, math.min(first + 6999, #names))}
    local sizes = {}
    for index, text in ipairs(redis.call('HMGET', key, unpack(part))) do
      local name = part[index]
      if text and not seen[name] then
        seen[name] = true
        sizes[#sizes + 1], texts[#texts + 1] = #text, text
        if is_deep and name:byte() == 107 then cut(text, names) end -- a "k"
      end
    end
    lengths[#lengths + 1] = struct.pack(('>I4'):rep(#sizes), unpack(sizes))
    first = first + #part
  end
  return table.concat(lengths), table.concat(texts)
end

local ask = {}

-- Stores a checkpoint. A channel with "=" has the value that its parent has of that version; with
-- "?" that or none; and with "d" that, or it is computed from the parent. Asks for all values if
-- what is needed is neither sent nor stored.
function ask.put(ttl, keep, ns, id, parent, root, metadata, body, channels)
  local name, numbers = ns .. '\0' .. id, space(ns)
  local old = record('c' .. name)
  parent = old.parent or parent
  local before = record('c' .. ns .. '\0' .. parent)
  local known, is_delta, deltas = {}, {}, {}
  for _, one in ipairs({before, old}) do
    for _, channel in ipairs(one.channels or {}) do
      if channel[4] then known[channel[1] .. '\0' .. channel[2]] = channel end
    end
  end
  -- A graph that lacks a channel does not name it, and leaves it to the next graph that has it.
  for _, channel in ipairs(before.deltas or {}) do is_delta[channel] = true end
  for index, channel in ipairs(channels) do
    local mark = not channel[4] and channel[3]
    if mark then
      channel = known[channel[1] .. '\0' .. channel[2]] or {channel[1], channel[2]}
      channels[index] = channel
      lacking = lacking or mark == '=' and not channel[4]
      if not channel[4] and (mark == 'd' or is_delta[channel[1]]) then
        deltas[#deltas + 1] = channel[1]
      end
    end
  end
  local new = {parent = parent, body = body, metadata = metadata, channels = channels}
  if #deltas > 0 then new.deltas, new.needs = deltas, before.place and true end
  retain(references_of_checkpoint(ns, new, {}))
  if lacking then return {'RESEND'} end
  release(references_of_checkpoint(ns, old, {}))
  new.place = old.place
  if not new.place then
    count(ns, 1)
    numbers.last = numbers.last + 1
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
  if keep > 0 then thin(ns, keep) end
  drop_waiting()
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
  for at, one in ipairs(writes) do places[one[1] .. '\0' .. one[3]] = at end
  for _, one in ipairs(given) do
    local place = one[1] .. '\0' .. one[3]
    local at = places[place]
    -- Those with a negative index, such as an error, replace what is there.
    if not at or one[3] < 0 then
      at = at or #writes + 1
      replaced[#replaced + 1], added[#added + 1] = writes[at], one
      writes[at], places[place] = one, at
    end
  end
  set('w' .. name, writes)
  retain(references(added, 5, {}))
  if lacking then return {'RESEND'} end
  release(references(replaced, 5, {}))
  flush(ttl)
  return {'OK'}
end

-- A checkpoint as the client takes it, if it is there; the head if no ID is given. Only one that was
-- put before is its parent, so that no chain of them is a circle.
local function row(ns, id)
  id = id ~= '' and id or space(ns).head
  local one = record('c' .. ns .. '\0' .. id)
  if not one.place then
    broken = id ~= '' and id == space(ns).head and 'c' .. ns .. '\0' .. id or nil
    return broken and error('damaged')
  end
  local place = record('c' .. ns .. '\0' .. one.parent).place
  local parent = place and place < one.place and one.parent or ''
  return {id, parent, one.body, one.metadata, one.channels, record('w' .. ns .. '\0' .. id)}
end

-- Checkpoints, '' for one that is not there; or deep, with all fields that they refer to.
function ask.rows(ttl, is_deep, names)
  local rows, fields = {}, {}
  for index, name in ipairs(names) do
    local found = row(name[1], name[2])
    rows[index] = found or ''
    if found and is_deep == 1 then
      references(found[5], 3, fields)
      references(found[6], 5, fields)
    end
  end
  if ttl > 0 and rows[1] ~= '' then redis.call('EXPIRE', key, ttl) end
  return {'OK', rows, contents(fields, true)}
end

function ask.fields(names)
  return {'OK', contents(names, false)}
end

-- Some of the places; and where to go on, "0" at the end. A key of another kind may be a session.
function ask.places(cursor)
  if type(redis.pcall('HLEN', key)) ~= 'number' then return {'OK', {'0', {}}} end
  return {'OK', redis.call('HSCAN', key, cursor, 'MATCH', 'i*', 'COUNT', '2000')}
end

-- Drops checkpoints, within the budget. If the head goes, `following` is the next. Answers how many
-- were looked at, and whether nothing waits to be dropped.
function ask.drop(ns, ids, following)
  local looked = 0
  while looked < #ids and work < BUDGET do
    looked = looked + 1
    local id, numbers = ids[looked], space(ns)
    local place = place_of(ns, id)
    if get(place) then
      if id == numbers.head then
        numbers.head, numbers.rank = id_and_rank(get(place_of(ns, following)) or '')
      end
      drop(ns, id, place)
    end
  end
  local is_done = drop_waiting()
  if is_done and tonumber(get('#') or 0) == 0 then
    redis.call('UNLINK', key)
  else
    flush(0)
  end
  return {'OK', looked, is_done and 1 or 0}
end

function ask.delete()
  redis.call('HLEN', key) -- refuses a key of another kind
  redis.call('UNLINK', key)
  return {'OK'}
end

-- How many checkpoints, seconds to live, and bytes there are; and the newest, if there is one.
function ask.about()
  local fields, bytes = redis.pcall('HLEN', key), redis.pcall('MEMORY', 'USAGE', key)
  if type(fields) ~= 'number' or fields == 0 then return {'OK'} end
  local size = type(bytes) == 'number' and bytes or 0
  return {'OK', tonumber(get('#') or 0), redis.call('TTL', key), size, row('', '')}
end

for index = 3, #ARGV, 2 do sent[ARGV[index]] = ARGV[index + 1] end
local is_fine, reply = pcall(ask[ARGV[1]], unpack(cmsgpack.unpack(ARGV[2])))
if broken then return {'DAMAGED', broken} end
return is_fine and reply or {err = (tostring(reply):gsub('^ERR ', ''))}
