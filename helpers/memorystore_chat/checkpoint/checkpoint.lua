-- Stores and reads the checkpoints of one thread. It goes after demand.lua, and uses nothing newer
-- than Redis 5.
--
-- KEYS[1]  the hash that holds all of the thread
-- ARGV     the name of what is asked for, and its arguments, taken one after the other
--
-- Fields of the hash. NAME is a namespace, a NUL, and a checkpoint's ID; a digest is 16 bytes.
--   s DIGEST  an element of a list
--   k DIGEST  a node of eight elements or of eight nodes, as `references` describes it
--   v DIGEST  a value, described there, too
--   c NAME    a checkpoint: {place, parent, "1" if it counts its parent, delta channels without a
--             value, checkpoint, metadata, channel, version, value, ...}
--   w NAME    what its tasks wrote: {task, path, index, channel, value, ...}
--   h NAME    the namespaces of sub-graphs that go when this checkpoint goes
--   i NAMESPACE NUL PLACE  the ID that was put there, and after a NUL its rank if that isn't the ID
--   n NAMESPACE  {first place, last place, count, head's ID, head's rank, IDs that went last, ...}
--   r FIELD   how many others refer to a field, where that isn't one
--   d         the namespaces that wait to be dropped
--   #         {number of checkpoints, number of changes, name of the checkpoint that was put last}
-- What is in braces, and h and d, is a record: texts after a checksum.
--
-- An element, node, value or checkpoint goes with the last that refers to it, so nothing is ever
-- searched for what may go. All changes are planned in memory and written at the end.

local BUDGET = 1500 -- what a call may drop, counted in fields; the rest waits for the next one
local LATE = 8      -- IDs of a namespace that tasks may write to after their checkpoint went
local PLACE, PARENT, COUNTS_PARENT, WITHOUT, VALUES = 1, 2, 3, 4, 7  -- in a checkpoint
local FIRST, LAST, COUNT, HEAD, RANK, GONE = 1, 2, 3, 4, 5, 6        -- in a namespace's record

local key, argument = KEYS[1], 1
local staged, found = {}, {}    -- fields to write (false: to remove), and fields as read
local records, changed = {}, {} -- records as texts, and which of them to write
local sent, lacking, broken = {}, false, nil
local work = 0

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
    for index = 1, command == 'HMGET' and last - first + 1 or 0 do
      replies[first + index - 1] = reply[index]
    end
  end
  return replies
end

local function get(field)
  if staged[field] ~= nil then return staged[field] end
  if found[field] == nil then found[field] = redis.call('HGET', key, field) end
  return found[field]
end

-- Reads the counts of fields in one command, for `get` to find.
local function fetch_counts(fields)
  local unread = {}
  for _, field in ipairs(fields) do
    local count = 'r' .. field
    if found[count] == nil then
      found[count] = false
      unread[#unread + 1] = count
    end
  end
  for index, value in ipairs(in_parts('HMGET', unread)) do found[unread[index]] = value end
end

local function damaged(field)
  broken = field
  error('damaged')
end

-- A record, {} if there is none.
local function record(field)
  if not records[field] then
    local sealed = get(field)
    local text = sealed and sealed:sub(9)
    if text and redis.sha1hex(text):sub(1, 8) ~= sealed:sub(1, 8) then damaged(field) end
    records[field] = unframe(text or '')
  end
  return records[field]
end

-- A record that is going to be changed in place.
local function change(field)
  changed[field] = true
  return record(field)
end

local function remove(field)
  records[field], changed[field], staged[field] = {}, nil, false
end

-- A namespace's record.
local function space(ns)
  local numbers = record('n' .. ns)
  for index, default in ipairs({1, 0, 0}) do
    numbers[index] = tonumber(numbers[index] or default)
  end
  numbers[HEAD], numbers[RANK] = numbers[HEAD] or '', numbers[RANK] or ''
  return numbers
end

local function place_field(ns, place)
  return 'i' .. ns .. '\0' .. string.format('%d', place)
end

-- The ID and the rank that a place's field holds.
local function id_and_rank(there)
  local id, rank = there:match('^([^%z]*)%z?(.*)$')
  return id, rank ~= '' and rank or id
end

-- The field of the place of a checkpoint that is listed; what only a delta needs is not.
local function listed(ns, id)
  local place = record('c' .. ns .. '\0' .. id)[PLACE]
  local field = place and place_field(ns, place)
  local there = field and get(field)
  return there and id_and_rank(there) == id and field or nil
end

-- Counts that a namespace has a checkpoint more or less.
local function count(ns, by)
  local header = change('#')
  header[1] = (header[1] or 0) + by
  changed['n' .. ns] = true
  space(ns)[COUNT] = space(ns)[COUNT] + by
end

-- Whether one text is above another by its bytes: Lua itself compares as the server's locale does.
local function is_above(one, other)
  local at = 1
  while at <= #one and one:byte(at) == other:byte(at) do at = at + 1 end
  return (one:byte(at) or -1) > (other:byte(at) or -1)
end

-- The fields that a value refers to. It is "b" and bytes; or "v" and the digest of a value that is
-- stored apart; or "l" or "L", a number of nodes, a number of elements, their digests, and what is
-- the client's own.
local function references(value, into)
  local kind = value:sub(1, 1)
  if kind == 'v' then
    into[#into + 1] = value:sub(1, 17)
  elseif kind ~= 'b' and #value >= 5 then
    local nodes, elements = struct.unpack('>I2I2', value, 2)
    for index = 0, nodes + elements - 1 do
      into[#into + 1] = (index < nodes and 'k' or 's') .. value:sub(6 + 16 * index, 21 + 16 * index)
    end
  end
  return into
end

-- The same for the values of a checkpoint or of writes: every so many parts.
local function references_of_parts(parts, first, step, into)
  for index = first, #parts, step do references(parts[index], into) end
  return into
end

-- The same for an element, a node or a value that is stored apart.
local function references_of_field(field, text)
  return text and field:sub(1, 1) ~= 's' and references(text, {}) or {}
end

-- The same for a checkpoint, which may refer to its parent.
local function references_of_checkpoint(name, parts)
  local into = references_of_parts(parts, VALUES + 2, 3, {})
  if parts[COUNTS_PARENT] == '1' then
    into[#into + 1] = 'c' .. name:match('^[^%z]*') .. '\0' .. parts[PARENT]
  end
  return into
end

-- Counts one more reference to each field, and stores those that are new, from what was sent.
local function retain(fields)
  fetch_counts(fields)
  for _, field in ipairs(fields) do
    local number = get('r' .. field)
    if number then
      staged['r' .. field] = tostring(number + 1)
    elseif staged[field] or staged[field] == nil and redis.call('HEXISTS', key, field) == 1 then
      staged['r' .. field] = '2'
    elseif sent[field] then
      staged[field] = sent[field]
      retain(references_of_field(field, sent[field]))
    else
      lacking = true
    end
  end
end

-- Counts one reference less to each field. What has none left goes, with all that hangs on it.
local function release(fields)
  local stack = {fields}
  while #stack > 0 do
    local batch = table.remove(stack)
    fetch_counts(batch)
    for _, field in ipairs(batch) do
      work = work + 1
      local number, kind, below = get('r' .. field), field:sub(1, 1), {}
      if number then
        staged['r' .. field] = tonumber(number) > 2 and tostring(number - 1) or false
      elseif kind == 'c' then
        local name = field:sub(2)
        below = references_of_checkpoint(name, record(field))
        references_of_parts(record('w' .. name), 5, 5, below)
        for _, ns in ipairs(record('h' .. name)) do table.insert(change('d'), ns) end
        remove('w' .. name)
        remove('h' .. name)
        remove(field)
      else
        below = kind ~= 's' and references_of_field(field, get(field)) or {}
        staged[field] = false
      end
      stack[#stack + 1] = below
    end
  end
end

-- Takes a checkpoint off the list; it goes, unless others are computed from it.
local function drop(ns, id, place)
  local numbers = space(ns)
  count(ns, -1)
  staged[place] = false
  numbers[#numbers + 1] = id
  if #numbers >= GONE + LATE then table.remove(numbers, GONE) end
  release({'c' .. ns .. '\0' .. id})
end

-- Drops what was put first until `keep` are left, or until the head or what is `spared` comes.
-- Answers whether it is done.
local function thin(ns, keep, spared)
  local numbers = space(ns)
  while numbers[COUNT] > keep and numbers[FIRST] <= numbers[LAST] do
    if work >= BUDGET then return false end
    work = work + 1
    local place = place_field(ns, numbers[FIRST])
    local id = get(place) and id_and_rank(get(place))
    if id and (id == spared or id == numbers[HEAD]) then return true end
    numbers[FIRST] = numbers[FIRST] + 1
    changed['n' .. ns] = true
    if id then drop(ns, id, place) end
  end
  return true
end

-- Drops the namespaces that wait for it. Answers whether none is left.
local function drop_waiting()
  local waiting = record('d')
  while #waiting > 0 do
    local ns = waiting[#waiting]
    space(ns)[HEAD] = ''
    if not thin(ns, 0) then return false end
    table.remove(change('d'))
    remove('n' .. ns)
  end
  return true
end

-- Writes what was planned, once all that follows is found to be allowed.
local function flush(ttl)
  local header, sets, gone = change('#'), {}, {}
  header[1], header[2], header[3] = header[1] or 0, (header[2] or 0) + 1, header[3] or ''
  for field in pairs(changed) do
    local text = frame(records[field])
    staged[field] = text ~= '' and redis.sha1hex(text):sub(1, 8) .. text
  end
  for field, value in pairs(staged) do
    if value then
      sets[#sets + 1] = field
      sets[#sets + 1] = value
    else
      gone[#gone + 1] = field
    end
  end
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

-- Fields that are there: the name, the length of the text, and the text of each. What they refer to
-- is added to `below`.
local function read_fields(fields, into, below)
  for index, text in ipairs(in_parts('HMGET', fields)) do
    if text then
      local field, at = fields[index], #into
      into[at + 1], into[at + 2], into[at + 3] = field, struct.pack('>I4', #text), text
      if field:byte() ~= 115 then references(text, below) end -- an "s" refers to nothing
    end
  end
end

local ask = {}

-- Stores a checkpoint. "=" stands for the value that its parent has in a channel, and "?" for that
-- or none. Asks for all values if something that is neither sent nor stored is needed.
function ask.put()
  local ttl, keep, ns, id, parent, root = take(), tonumber(take()), take(), take(), take(), take()
  local deltas, metadata, body, channels = unframe(take()), take(), take(), unframe(take())
  take_sent()
  local name, numbers = ns .. '\0' .. id, space(ns)
  local old = record('c' .. name)
  parent = old[PARENT] or parent
  local before = record('c' .. ns .. '\0' .. parent)
  local inherited, is_delta, without = {}, {}, {}
  for _, parts in ipairs({before, old}) do
    for index = VALUES, #parts, 3 do
      inherited[parts[index] .. '\0' .. parts[index + 1]] = parts[index + 2]
    end
  end
  for _, channel in ipairs(deltas) do is_delta[channel] = true end
  for _, channel in ipairs(unframe(before[WITHOUT] or '')) do is_delta[channel] = true end
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
  local needs = #without > 0 and #before > 0 and '1' or ''
  local parts = {'', parent, needs, frame(without), body, metadata, unpack(channels)}
  retain(references_of_checkpoint(name, parts))
  if lacking then return {'RESEND'} end
  release(references_of_checkpoint(name, old))
  if #old > 0 then
    parts[PLACE] = old[PLACE]
  else
    count(ns, 1)
    numbers[LAST] = numbers[LAST] + 1
    parts[PLACE] = numbers[LAST]
    local rank = id
    if parent ~= '' and parent == numbers[HEAD] and not is_above(id, numbers[RANK]) then
      local base, number = numbers[RANK]:match('^(.*)%z(%d+)$')
      rank = (base or numbers[RANK]) .. '\0' .. string.format('%010d', (number or 0) + 1)
    end
    if numbers[HEAD] == '' or is_above(rank, numbers[RANK]) then
      numbers[HEAD], numbers[RANK] = id, rank
    end
    staged[place_field(ns, numbers[LAST])] = rank == id and id or id .. '\0' .. rank
  end
  records['c' .. name], changed['c' .. name] = parts, true
  change('#')[3] = name
  if root ~= '' and numbers[LAST] == 1 then -- the first of a sub-graph's call
    table.insert(change('h\0' .. root), ns)
  end
  if keep > 0 then thin(ns, keep, id) end
  drop_waiting()
  flush(ttl)
  return {'OK'}
end

-- Stores what a task wrote, before or after its checkpoint arrives, but not after that was dropped.
function ask.put_writes()
  local ttl, ns, id, given = take(), take(), take(), unframe(take())
  take_sent()
  local name, numbers, places, replaced, added = ns .. '\0' .. id, space(ns), {}, {}, {}
  for index = GONE, #record('c' .. name) == 0 and #numbers or 0 do
    if numbers[index] == id then return {'LATE'} end
  end
  local writes = change('w' .. name)
  for index = 1, #writes, 5 do places[writes[index] .. '\0' .. writes[index + 2]] = index end
  for index = 1, #given, 5 do
    local at = places[given[index] .. '\0' .. given[index + 2]]
    -- Those with a negative index, such as an error, replace what is there.
    if not at or given[index + 2]:sub(1, 1) == '-' then
      references(given[index + 4], added)
      if at then references(writes[at + 4], replaced) end
      at = at or #writes + 1
      for part = 0, 4 do writes[at + part] = given[index + part] end
      places[given[index] .. '\0' .. given[index + 2]] = at
    end
  end
  retain(added)
  if lacking then return {'RESEND'} end
  release(replaced)
  flush(ttl)
  return {'OK'}
end

-- A checkpoint: its ID, its parent if that is stored, its parts, and its writes. Parents have been
-- put before, so that no chain of them is a circle.
local function row(ns, id)
  local parts = record('c' .. ns .. '\0' .. id)
  local place = record('c' .. ns .. '\0' .. (parts[PARENT] or ''))[PLACE]
  local is_before = place and tonumber(place) < tonumber(parts[PLACE])
  return {id, is_before and parts[PARENT] or '', parts, record('w' .. ns .. '\0' .. id)}
end

-- The ID that is meant: the head's if none is given.
local function id_of(ns, id)
  local head = space(ns)[HEAD]
  if id ~= '' or head == '' then return id end
  return listed(ns, head) and head or damaged('c' .. ns .. '\0' .. head)
end

function ask.get()
  local ttl, ns, id, into, seen = take(), take(), take(), {}, {}
  id = id_of(ns, id)
  local answer = row(ns, id)
  if #answer[3] == 0 then return {'OK'} end
  if ttl ~= '0' then redis.call('EXPIRE', key, ttl) end
  local level = references_of_parts(answer[3], VALUES + 2, 3, {})
  references_of_parts(answer[4], 5, 5, level)
  while #level > 0 do
    local unread, below = {}, {}
    for _, field in ipairs(level) do
      if not seen[field] then
        seen[field] = true
        unread[#unread + 1] = field
      end
    end
    read_fields(unread, into, below)
    level = below
  end
  return {'OK', answer, table.concat(into)}
end

-- Checkpoints without their values; '' for one that has gone.
function ask.rows()
  local answer = {'OK'}
  for _, name in ipairs(unframe(take())) do
    local ns, id = name:match('^([^%z]*)%z(.*)$')
    answer[#answer + 1] = #record('c' .. name) > 0 and row(ns, id) or ''
  end
  return answer
end

function ask.fields()
  local into = {}
  read_fields(unframe(take()), into, {})
  return {'OK', table.concat(into)}
end

-- Some namespaces; and where to go on, "0" at the end. A key of another kind may be a session.
function ask.spaces()
  if type(redis.pcall('HLEN', key)) ~= 'number' then return {'OK', '0'} end
  local reply = redis.call('HSCAN', key, take(), 'MATCH', 'n*', 'COUNT', '1000')
  local answer = {'OK', reply[1]}
  for index = 1, #reply[2], 2 do answer[#answer + 1] = reply[2][index]:sub(2) end
  return answer
end

-- What is at some places of a namespace, from the last downward; and where to go on, 0 at the end.
function ask.names()
  local ns, from, fields = take(), tonumber(take()), {}
  local numbers = space(ns)
  from = math.min(from, numbers[LAST])
  local to = math.max(numbers[FIRST], from - 1999)
  for place = from, to, -1 do fields[#fields + 1] = place_field(ns, place) end
  local answer = {'OK', to > numbers[FIRST] and to - 1 or 0}
  for _, there in ipairs(in_parts('HMGET', fields)) do
    if there then answer[#answer + 1] = {id_and_rank(there)} end
  end
  return answer
end

-- Drops checkpoints, within the budget. If the head goes, `following` is the next. Answers how many
-- were looked at, whether nothing waits to be dropped, and which of them are needed by others.
function ask.drop()
  local ns, ids, following, looked, needed = take(), unframe(take()), take(), 0, {}
  while looked < #ids and work < BUDGET do
    looked = looked + 1
    local id, numbers = ids[looked], space(ns)
    local place = listed(ns, id)
    if place then
      if id == numbers[HEAD] then
        local next_place = listed(ns, following)
        numbers[HEAD], numbers[RANK] = id_and_rank(next_place and get(next_place) or '')
      end
      drop(ns, id, place)
      if #record('c' .. ns .. '\0' .. id) > 0 then needed[#needed + 1] = id end
    end
  end
  local is_done = drop_waiting()
  if is_done and tonumber(record('#')[1] or 0) == 0 then
    redis.call('UNLINK', key)
  else
    flush('0')
  end
  return {'OK', looked, is_done and 1 or 0, needed}
end

function ask.delete()
  redis.call('HLEN', key) -- refuses a key of another kind
  redis.call('UNLINK', key)
  return {'OK'}
end

-- What there is: {checkpoints, seconds to live, bytes, the head's parts and writes if there is one}.
function ask.about()
  local fields, bytes = redis.pcall('HLEN', key), redis.pcall('MEMORY', 'USAGE', key)
  if type(fields) ~= 'number' or fields == 0 then return {'OK'} end
  local id = id_of('', '')
  return {
    'OK', tonumber(record('#')[1] or 0), redis.call('TTL', key), type(bytes) == 'number' and bytes or 0,
    id ~= '' and row('', id) or nil,
  }
end

function ask.dump()
  local header = get('#')
  return header and {'OK', redis.call('DUMP', key), header} or {'OK'}
end

-- Makes a thread of a dump; not over another thread, but again over the same.
function ask.restore()
  local ttl, payload, header = take(), take(), take()
  if get('#') == header then return {'OK'} end
  if redis.call('EXISTS', key) == 1 then return {'EXISTS'} end
  redis.call('RESTORE', key, string.format('%d', ttl * 1000), payload)
  return {'OK'}
end

local is_fine, reply = pcall(ask[ARGV[1]])
if is_fine then
  return reply
elseif broken then
  return {'DAMAGED', broken}
end
return {err = (tostring(reply):gsub('^ERR ', ''))}
