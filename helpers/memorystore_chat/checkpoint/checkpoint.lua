-- Stores and reads the checkpoints of one thread. It goes after demand.lua, and uses nothing newer
-- than Redis 5.
--
-- KEYS[1]  the hash that holds all of the thread
-- ARGV     the name of what is asked for, and its arguments, taken one after the other
--
-- Fields of the hash. NAME is a namespace, a NUL, and a checkpoint's ID; a digest is 16 bytes.
--   s DIGEST  an element of a list
--   k DIGEST  a node: "s" and the digests of eight elements, or "k" and those of eight nodes
--   v DIGEST  a value, as `references` describes it
--   c NAME    a checkpoint: "place:", and sealed {parent, "1" if it counts its parent, delta
--             channels without a value, checkpoint, metadata, channel, version, value, ...}
--   w NAME    what its tasks wrote: sealed {task, path, index, channel, value, ...}
--   h NAME    the namespaces of sub-graphs that go when this checkpoint goes: sealed
--   i NAMESPACE NUL PLACE  the ID that was put there, and after a NUL its rank if that isn't the ID
--   n NAMESPACE  sealed {first place, last place, count, head's ID, head's rank, IDs that went last,
--             early ID, ...}
--   r FIELD   how many others refer to a field, where that isn't one
--   d         the namespaces that wait to be dropped: sealed
--   #         sealed {number of changes, number of checkpoints, token of the copy}
--
-- An element, node, value or checkpoint goes with the last that refers to it, so nothing is ever
-- searched for what may go. All changes are planned in memory and written at the end.

local BUDGET = 1500 -- what a call may drop, counted in fields; the rest waits for the next one
local EARLY = 16    -- IDs of a namespace that tasks may write to before their checkpoint arrives
local LATE = 8      -- IDs of a namespace that tasks may write to after their checkpoint went
local PAGE = 1000000 -- bytes of checkpoints after which an answer ends

local key, argument = KEYS[1], 1
local staged, found = {}, {}            -- fields to write (false: to remove), and fields as read
local records, spaces, changed = {}, {}, {} -- what was unsealed, and which of it to seal again
local sent, lacking, broken = {}, false, nil
local work, alive = 0, nil

local function take()
  argument = argument + 1
  return ARGV[argument]
end

-- Texts in one string: each after its length, which is a byte, or 255 and four bytes.
local function frame(parts)
  local out = {}
  for _, part in ipairs(parts) do
    part = tostring(part)
    out[#out + 1] = #part < 255 and string.char(#part) or '\255' .. struct.pack('>I4', #part)
    out[#out + 1] = part
  end
  return table.concat(out)
end

local function unframe(text)
  local parts, at = {}, 1
  while at <= #text do
    local size = text:byte(at)
    at = at + 1
    if size == 255 then size, at = struct.unpack('>I4', text, at) end
    parts[#parts + 1] = text:sub(at, at + size - 1)
    at = at + size
  end
  return parts
end

-- Runs a command on so many values that a script cannot pass them at once; answers all replies.
local function in_parts(command, values)
  local replies = {}
  for first = 1, #values, 7000 do
    local last = math.min(first + 6999, #values)
    local reply = redis.call(command, key, unpack(values, first, last))
    if command == 'HMGET' then
      for index = 1, last - first + 1 do replies[first + index - 1] = reply[index] end
    end
  end
  return replies
end

local function get(field)
  if staged[field] ~= nil then return staged[field] end
  if found[field] == nil then found[field] = redis.call('HGET', key, field) end
  return found[field]
end

-- Reads fields in one command, for `get` to find.
local function fetch(fields)
  local unread = {}
  for _, field in ipairs(fields) do
    if found[field] == nil then
      found[field] = false
      unread[#unread + 1] = field
    end
  end
  for index, value in ipairs(in_parts('HMGET', unread)) do found[unread[index]] = value end
end

local function seal(parts)
  local text = frame(parts)
  return redis.sha1hex(text):sub(1, 8) .. text
end

local function damaged(field)
  broken = field
  error('damaged')
end

local function unseal(field, sealed)
  local text = sealed:sub(9)
  if redis.sha1hex(text):sub(1, 8) ~= sealed:sub(1, 8) then damaged(field) end
  return unframe(text)
end

-- A record that is changed in place and sealed again at the end if `changed` says so.
local function record(field)
  if not records[field] then
    local sealed = get(field)
    records[field] = sealed and unseal(field, sealed) or {}
  end
  return records[field]
end

local function change(field)
  changed[field] = true
  return record(field)
end

-- A checkpoint's place and parts.
local function checkpoint(name)
  local text = get('c' .. name)
  if not text then return nil end
  local place, sealed = text:match('^(%d+):(.*)$')
  if not place then damaged('c' .. name) end
  return place, unseal('c' .. name, sealed)
end

local function place_field(ns, place)
  return 'i' .. ns .. '\0' .. string.format('%d', place)
end

-- The place of a checkpoint that is listed; what is only needed by others is not.
local function listed(ns, id)
  local text = get('c' .. ns .. '\0' .. id)
  if not text then return nil end
  local place = text:match('^(%d+):') or damaged('c' .. ns .. '\0' .. id)
  local there = get('i' .. ns .. '\0' .. place)
  return there and there:match('^[^%z]*') == id and place or nil
end

-- A namespace's numbers, to be changed in place.
local function space(ns)
  if not spaces[ns] then
    local parts = record('n' .. ns)
    spaces[ns] = {
      first = tonumber(parts[1] or 1), last = tonumber(parts[2] or 0),
      count = tonumber(parts[3] or 0), head = parts[4] or '', rank = parts[5] or '',
      gone = unframe(parts[6] or ''), early = {unpack(parts, 7)},
    }
  end
  return spaces[ns]
end

local function touch(ns)
  changed['n' .. ns] = true
  return space(ns)
end

local function count_alive(by)
  alive = alive or tonumber(record('#')[2] or 0)
  alive = alive + by
end

-- Whether one text is above another by its bytes: Lua itself compares as the server's locale does.
local function is_above(one, other)
  for at = 1, math.min(#one, #other) do
    local left, right = one:byte(at), other:byte(at)
    if left ~= right then return left > right end
  end
  return #one > #other
end

local function digests(text, kind, first, count, into)
  for index = 0, count - 1 do
    into[#into + 1] = kind .. text:sub(first + 16 * index, first + 16 * index + 15)
  end
  return into
end

-- The fields that a value refers to. It is "b" and bytes; or "v" and the digest of a value that is
-- stored apart; or "l", "L", "d" or "D", a number of nodes, a number of elements, their digests, and
-- what is the client's own.
local function references(value)
  local kind = value:sub(1, 1)
  if kind == 'v' then
    return {'v' .. value:sub(2, 17)}
  elseif kind == 'b' or #value < 5 then
    return {}
  end
  local nodes, elements = struct.unpack('>I2I2', value, 2)
  local into = digests(value, 'k', 6, nodes, {})
  return digests(value, 's', 6 + 16 * nodes, elements, into)
end

local function references_of_all(parts, first, step, into)
  for index = first, #parts, step do
    for _, field in ipairs(references(parts[index])) do into[#into + 1] = field end
  end
  return into
end

local function references_of(field, text)
  local kind = field:sub(1, 1)
  if kind == 'k' then
    return digests(text, text:sub(1, 1) == 's' and 's' or 'k', 2, math.floor(#text / 16), {})
  end
  return kind == 'v' and references(text) or {}
end

local function fetch_counts(fields)
  local counts = {}
  for index, field in ipairs(fields) do counts[index] = 'r' .. field end
  fetch(counts)
end

local function is_there(field)
  if staged[field] ~= nil then return staged[field] end
  return found[field] or redis.call('HEXISTS', key, field) == 1
end

-- Counts one more reference to each field, and stores those that are new, from what was sent.
local function retain(fields)
  fetch_counts(fields)
  for _, field in ipairs(fields) do
    local count = get('r' .. field)
    if count then
      staged['r' .. field] = tostring(count + 1)
    elseif is_there(field) then
      staged['r' .. field] = '2'
    elseif sent[field] then
      staged[field] = sent[field]
      retain(references_of(field, sent[field]))
    else
      lacking = true
    end
  end
end

-- Takes away what hangs on a checkpoint that goes: its writes and the namespaces of its sub-graphs.
local function strip(name, into)
  local writes, hanging = get('w' .. name), get('h' .. name)
  if writes then
    references_of_all(unseal('w' .. name, writes), 5, 5, into)
    staged['w' .. name] = false
  end
  if hanging then
    for _, ns in ipairs(unseal('h' .. name, hanging)) do table.insert(change('d'), ns) end
    staged['h' .. name] = false
  end
end

-- Counts one reference less to each field, and drops those that have none, with what they refer to.
local function release(fields)
  local stack = {fields}
  while #stack > 0 do
    local batch = table.remove(stack)
    fetch_counts(batch)
    for _, field in ipairs(batch) do
      work = work + 1
      local count = get('r' .. field)
      if count then
        staged['r' .. field] = tonumber(count) > 2 and tostring(count - 1) or false
      elseif field:sub(1, 1) == 's' then
        staged[field] = false
      else
        local text, into = get(field), {}
        if field:sub(1, 1) == 'c' and text then
          local name = field:sub(2)
          local _, parts = checkpoint(name)
          references_of_all(parts, 8, 3, into)
          if parts[2] == '1' then
            into[#into + 1] = 'c' .. name:match('^[^%z]*') .. '\0' .. parts[1]
          end
          strip(name, into)
        elseif text then
          into = references_of(field, text)
        end
        staged[field] = false
        stack[#stack + 1] = into
      end
    end
  end
end

-- Takes a checkpoint off the list; it goes, unless others are computed from it.
local function drop(ns, id, place)
  local numbers = touch(ns)
  staged[place_field(ns, place)] = false
  numbers.count = numbers.count - 1
  table.insert(numbers.gone, id)
  if #numbers.gone > LATE then table.remove(numbers.gone, 1) end
  count_alive(-1)
  release({'c' .. ns .. '\0' .. id})
end

-- Drops what was put first, but neither the head nor what is `spared`, until `keep` are left.
-- Answers whether it is done up to the place `last`.
local function thin(ns, keep, last, spared)
  local numbers = space(ns)
  while numbers.count > keep and numbers.first <= math.min(last, numbers.last) do
    if work >= BUDGET then return false end
    work = work + 1
    local place = numbers.first
    local there = get(place_field(ns, place))
    local id = there and there:match('^[^%z]*')
    if id and id == spared then return true end
    touch(ns).first = place + 1
    if id and id == numbers.head then -- it is kept at the end
      local text = get('c' .. ns .. '\0' .. id) or damaged('c' .. ns .. '\0' .. id)
      numbers.last = numbers.last + 1
      staged[place_field(ns, place)] = false
      staged[place_field(ns, numbers.last)] = there
      staged['c' .. ns .. '\0' .. id] = text:gsub('^%d+', string.format('%d', numbers.last), 1)
    elseif id then
      drop(ns, id, place)
    end
  end
  return true
end

-- Drops the namespaces that wait for it. Answers whether none is left.
local function drop_waiting()
  while #record('d') > 0 do
    local waiting = change('d')
    local ns = waiting[#waiting]
    space(ns).head = ''
    if not thin(ns, 0, math.huge, nil) then return false end
    table.remove(waiting)
    local into = {}
    for _, id in ipairs(space(ns).early) do strip(ns .. '\0' .. id, into) end
    release(into)
    spaces[ns], records['n' .. ns], changed['n' .. ns] = nil, {}, nil
    staged['n' .. ns] = false
  end
  return true
end

local function forget(ids, id)
  for index, each in ipairs(ids) do
    if each == id then
      table.remove(ids, index)
      return true
    end
  end
  return false
end

-- Notes an ID that is written to before its checkpoint arrives. The oldest of many is forgotten,
-- since a checkpoint that was dropped never comes.
local function note_early(ns, id)
  if get('c' .. ns .. '\0' .. id) then return end
  local early = touch(ns).early
  forget(early, id)
  early[#early + 1] = id
  if #early > EARLY then
    local into = {}
    strip(ns .. '\0' .. table.remove(early, 1), into)
    release(into)
  end
end

-- Writes what was planned, once all that follows is found to be allowed.
local function flush(ttl, may_end)
  local total = alive or tonumber(record('#')[2] or 0)
  if may_end and total <= 0 and #record('d') == 0 then
    redis.call('UNLINK', key)
    return
  end
  for field in pairs(changed) do
    if field:sub(1, 1) == 'n' then
      local it = spaces[field:sub(2)]
      staged[field] = seal({
        string.format('%d', it.first), string.format('%d', it.last), it.count, it.head, it.rank,
        frame(it.gone), unpack(it.early),
      })
    elseif #records[field] > 0 then
      staged[field] = seal(records[field])
    elseif get(field) then
      staged[field] = false
    end
  end
  local sets, gone = {}, {}
  for field, value in pairs(staged) do
    if value then
      sets[#sets + 1] = field
      sets[#sets + 1] = value
    else
      gone[#gone + 1] = field
    end
  end
  local old = record('#')
  sets[#sets + 1] = '#'
  sets[#sets + 1] = seal({string.format('%d', (tonumber(old[1]) or 0) + 1), total, old[3] or ''})
  if #gone > 0 then demand('HDEL', key, gone[1]) end
  if ttl ~= '0' then demand('EXPIRE', key, ttl) end
  in_parts('HSET', sets)
  in_parts('HDEL', gone)
  if ttl ~= '0' then redis.call('EXPIRE', key, ttl) end
end

local function take_sent()
  while ARGV[argument + 1] do
    local field = take()
    sent[field] = take()
  end
end

-- Each field that values refer to, once, with all that it refers to itself, in one string.
local function collect(values, first, step, into)
  local level = references_of_all(values, first, step, {})
  while #level > 0 do
    local unread, following = {}, {}
    for _, field in ipairs(level) do
      if not into[field] then
        into[field] = true
        unread[#unread + 1] = field
      end
    end
    for index, text in ipairs(in_parts('HMGET', unread)) do
      local field = unread[index]
      if text then
        local at = #into
        into[at + 1], into[at + 2], into[at + 3] = field, struct.pack('>I4', #text), text
        for _, each in ipairs(field:byte() ~= 115 and references_of(field, text) or {}) do
          following[#following + 1] = each
        end
      end
    end
    level = following
  end
end

local ask = {}

-- Stores a checkpoint. "=" stands for the value that its parent has in a channel, and "?" for that
-- or none. Asks for all values if something that is neither sent nor stored is needed.
function ask.put()
  local ttl, keep, ns, id, parent, root = take(), tonumber(take()), take(), take(), take(), take()
  local deltas, body, metadata, channels = unframe(take()), take(), take(), unframe(take())
  take_sent()
  local name, numbers = ns .. '\0' .. id, space(ns)
  local place, old = checkpoint(name)
  if old then
    parent = old[1] -- so that parents never form a circle
  end
  local _, before = checkpoint(ns .. '\0' .. parent)
  local inherited, is_delta, without = {}, {}, {}
  for _, parts in ipairs({before or {}, old or {}}) do
    for index = 6, #parts, 3 do
      inherited[parts[index] .. '\0' .. parts[index + 1]] = parts[index + 2]
    end
  end
  for _, channel in ipairs(deltas) do is_delta[channel] = true end
  for _, channel in ipairs(before and unframe(before[3]) or {}) do is_delta[channel] = true end
  for index = 1, #channels, 3 do
    local value = channels[index + 2]
    if value == '=' or value == '?' then
      channels[index + 2] = inherited[channels[index] .. '\0' .. channels[index + 1]] or ''
      lacking = lacking or (value == '=' and channels[index + 2] == '')
    end
    if channels[index + 2] == '' and is_delta[channels[index]] then
      without[#without + 1] = channels[index]
    end
  end
  local needs = #without > 0 and before and parent ~= id
  retain(references_of_all(channels, 3, 3, needs and {'c' .. ns .. '\0' .. parent} or {}))
  if lacking then return {'RESEND'} end
  if old then
    local into = references_of_all(old, 8, 3, {})
    if old[2] == '1' then into[#into + 1] = 'c' .. ns .. '\0' .. parent end
    release(into)
  end
  if not listed(ns, id) then
    if old then retain({'c' .. name}) end
    touch(ns)
    place = string.format('%d', numbers.last + 1)
    numbers.last, numbers.count = numbers.last + 1, numbers.count + 1
    count_alive(1)
    local rank = id
    if parent ~= '' and parent == numbers.head and not is_above(id, numbers.rank) then
      local base, count = numbers.rank:match('^(.*)%z(%d+)$')
      rank = (base or numbers.rank) .. '\0' .. string.format('%010d', (count or 0) + 1)
    end
    if numbers.head == '' or is_above(rank, numbers.rank) then
      numbers.head, numbers.rank = id, rank
    end
    staged[place_field(ns, place)] = rank == id and id or id .. '\0' .. rank
    forget(numbers.early, id)
    forget(numbers.gone, id)
  end
  local parts = {parent, needs and '1' or '', frame(without), body, metadata}
  for _, part in ipairs(channels) do parts[#parts + 1] = part end
  staged['c' .. name] = place .. ':' .. seal(parts)
  if root ~= '' and numbers.last == 1 then -- the first of a sub-graph's call
    table.insert(change('h\0' .. root), ns)
    note_early('', root)
  end
  if keep > 0 then thin(ns, keep, math.huge, id) end
  drop_waiting()
  flush(ttl)
  return {'OK'}
end

-- Stores what a task wrote, before or after its checkpoint arrives.
function ask.put_writes()
  local ttl, ns, id, given = take(), take(), take(), unframe(take())
  take_sent()
  local name, places, into = ns .. '\0' .. id, {}, {}
  if not get('c' .. name) and forget(space(ns).gone, id) then return {'LATE'} end
  local writes = change('w' .. name)
  for index = 1, #writes, 5 do places[writes[index] .. '\0' .. writes[index + 2]] = index end
  local retained = {}
  for index = 1, #given, 5 do
    local place = given[index + 2]
    local at = places[given[index] .. '\0' .. place]
    -- Those with a negative index, such as an error, replace what is there.
    if not at or place:sub(1, 1) == '-' then
      references_of_all({given[index + 4]}, 1, 1, retained)
      if at then references_of_all({writes[at + 4]}, 1, 1, into) end
      at = at or #writes + 1
      for part = 0, 4 do writes[at + part] = given[index + part] end
      places[given[index] .. '\0' .. place] = at
    end
  end
  retain(retained)
  if lacking then return {'RESEND'} end
  release(into)
  note_early(ns, id)
  flush(ttl)
  return {'OK'}
end

-- A checkpoint by its ID, or the head: {ID, checkpoint, its parent if that is listed, writes}.
local function row(ns, id)
  local name = ns .. '\0' .. id
  local text = get('c' .. name)
  local _, parts = checkpoint(name)
  local parent = parts[1] ~= '' and listed(ns, parts[1]) and parts[1] or ''
  local writes = get('w' .. name)
  if writes == '' then damaged('w' .. name) end
  return parts, {id, text, parent, writes or ''}
end

function ask.get()
  local ttl, ns, id = take(), take(), take()
  local head = space(ns).head
  if id == '' and head ~= '' and not listed(ns, head) then damaged('c' .. ns .. '\0' .. head) end
  id = id == '' and head or id
  if id == '' or not listed(ns, id) then return {'OK'} end
  local parts, answer = row(ns, id)
  local into = {}
  collect(parts, 8, 3, into)
  collect(answer[4] ~= '' and unseal('w' .. ns .. '\0' .. id, answer[4]) or {}, 5, 5, into)
  if ttl ~= '0' then redis.call('EXPIRE', key, ttl) end
  return {'OK', answer, table.concat(into)}
end

-- Some checkpoints without their values, up to a number of bytes; '' for one that has gone.
function ask.rows()
  local ns, ids, size, answer = take(), unframe(take()), 0, {'OK'}
  for _, id in ipairs(ids) do
    if size > PAGE then break end
    local _, each = nil, ''
    if listed(ns, id) then
      _, each = row(ns, id)
      size = size + #each[2] + #each[4]
    end
    answer[#answer + 1] = each
  end
  return answer
end

-- Fields as they are, those that are there, up to a number of bytes.
function ask.fields()
  local fields, looked, size, into = unframe(take()), 0, 0, {}
  for first = 1, #fields, 100 do
    local some = {unpack(fields, first, math.min(first + 99, #fields))}
    for index, text in ipairs(in_parts('HMGET', some)) do
      into[#into + 1] = some[index] .. struct.pack('>I4', text and #text or 0) .. (text or '')
      size = size + (text and #text or 0)
    end
    looked = looked + #some
    if size > PAGE then break end
  end
  return {'OK', tostring(looked), table.concat(into)}
end

-- A key of another kind may be a session.
local function is_thread()
  return type(redis.pcall('HLEN', key)) == 'number'
end

-- Some of the fields whose names match; and where to go on, "0" at the end.
function ask.scan()
  if not is_thread() then return {'OK', '0'} end
  local reply = redis.call('HSCAN', key, take(), 'MATCH', take(), 'COUNT', '1000')
  return {'OK', reply[1], unpack(reply[2])}
end

-- What is at some places of a namespace, from the last downward; and where to go on.
function ask.names()
  local ns, from = take(), tonumber(take())
  local numbers, fields = space(ns), {}
  from = math.min(from, numbers.last)
  for place = from, math.max(numbers.first, from - 1999), -1 do
    fields[#fields + 1] = place_field(ns, place)
  end
  local answer = {'OK', from - 2000 < numbers.first and '0' or string.format('%d', from - 2000)}
  for _, there in ipairs(in_parts('HMGET', fields)) do
    if there then answer[#answer + 1] = there end
  end
  return answer
end

-- The way from a checkpoint to its ancestors, until each channel's value is found: those that it
-- passes, and the values and writes that belong to these channels.
function ask.walk()
  local ns, id, skips = take(), take(), take() == '1'
  local wanted, left, answer, into, size = {}, 0, {}, {}, 0
  for _, channel in ipairs(unframe(take())) do wanted[channel], left = true, left + 1 end
  id = id == '' and space(ns).head or id
  for _ = 1, 128 do
    local name = ns .. '\0' .. id
    local _, parts = checkpoint(name)
    if not parts or left == 0 or size > PAGE then break end
    if not skips then
      local text, writes, values = get('c' .. name), get('w' .. name) or '', {}
      local all = writes ~= '' and unseal('w' .. name, writes) or {}
      for index = 1, #all, 5 do
        values[#values + 1] = wanted[all[index + 3]] and all[index + 4] or 'b'
      end
      for index = 6, #parts, 3 do
        if wanted[parts[index]] and parts[index + 2] ~= '' then
          values[#values + 1] = parts[index + 2]
          wanted[parts[index]], left = nil, left - 1
        end
      end
      collect(values, 1, 1, into)
      answer[#answer + 1] = {id, text, '', writes}
      size = size + #text + #writes
    end
    id, skips = parts[1], false
  end
  return {'OK', left > 0 and #answer > 0 and id or '', table.concat(into), answer}
end

-- Keeps the newest of a namespace, of what was put up to a place. Answers whether it is done.
function ask.prune()
  local ns, last = take(), tonumber(take())
  local is_done = drop_waiting()
  if is_done then is_done = thin(ns, 1, last, nil) and drop_waiting() end
  flush('0', true)
  return {'OK', is_done and '1' or ''}
end

-- Finds the head again after it was dropped.
local function find_head(ns)
  local numbers, fields = touch(ns), {}
  numbers.head, numbers.rank = '', ''
  for place = numbers.first, numbers.last do fields[#fields + 1] = place_field(ns, place) end
  fetch(fields)
  for _, field in ipairs(fields) do
    local there = get(field)
    if there then
      local id, rank = there:match('^[^%z]*'), there:match('%z(.*)$')
      if numbers.head == '' or is_above(rank or id, numbers.rank) then
        numbers.head, numbers.rank = id, rank or id
      end
    end
  end
end

-- Drops checkpoints. Answers how many of those named were looked at, and which of them are needed.
function ask.drop()
  local ns, ids, looked, needed = take(), unframe(take()), 0, {}
  local is_headless = false
  for _, id in ipairs(ids) do
    if work >= BUDGET then break end
    local place = listed(ns, id)
    if place then
      is_headless = is_headless or id == space(ns).head
      drop(ns, id, place)
      if staged['c' .. ns .. '\0' .. id] ~= false then needed[#needed + 1] = id end
    end
    looked = looked + 1
  end
  if is_headless then find_head(ns) end
  local is_done = drop_waiting()
  flush('0', true)
  return {'OK', tostring(looked), is_done and '1' or '', unpack(needed)}
end

function ask.delete()
  redis.call('HLEN', key) -- refuses a key of another kind
  redis.call('UNLINK', key)
  return {'OK'}
end

-- What there is: {changes, checkpoints, fields, seconds to live, bytes, the head as a row}.
function ask.about()
  if not is_thread() then return {'OK'} end
  local header, id, bytes = record('#'), space('').head, redis.pcall('MEMORY', 'USAGE', key)
  local _, head = nil, ''
  if id ~= '' and listed('', id) then _, head = row('', id) end
  return {
    'OK', header[1] or '0', header[2] or '0', tostring(redis.call('HLEN', key)),
    tostring(redis.call('TTL', key)), type(bytes) == 'number' and tostring(bytes) or '', head,
  }
end

-- Writes a page of a copy. The last brings the namespaces' numbers, and makes it a thread.
function ask.paste()
  local ttl, token, is_first, is_last = take(), take(), take() == '1', take() == '1'
  local fields, header = unframe(take()), record('#')
  if is_first and header[1] == 'copying' and header[3] ~= token then
    redis.call('UNLINK', key) -- a copy that broke off
    header = {}
  end
  if header[3] ~= token and (#header > 0 or not is_first) then return {'EXISTS'} end
  if #header > 0 and header[1] ~= 'copying' then
    return {'OK'} -- it is done, and was asked for again
  end
  if ttl ~= '0' then demand('EXPIRE', key, ttl) end
  fields[#fields + 1] = '#'
  fields[#fields + 1] = seal({is_last and '1' or 'copying', take(), token})
  in_parts('HSET', fields)
  if ttl ~= '0' then redis.call('EXPIRE', key, ttl) end
  return {'OK'}
end

local is_fine, reply = pcall(ask[ARGV[1]])
if is_fine then
  return reply
elseif broken then
  return {'DAMAGED', broken}
end
return {err = (tostring(reply):gsub('^ERR ', ''))}
