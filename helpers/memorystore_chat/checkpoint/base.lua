-- What the scripts of this folder share: it goes in front of each of them, after demand.lua.
--
-- KEYS[1]  the hash that holds all checkpoints of a thread
-- ARGV     the script's arguments, taken one after the other
--
-- Fields of the hash. NS is a namespace's number, CH a channel, ID a checkpoint, V a version.
--   #           {count of namespaces, newest namespace}, or {.., .., token of the copy}
--   nNAMESPACE  {NS, newest ID, namespace before it}
--   cNS:ID      {ID before it, parent, run, checkpoint, metadata, {CH, V, ...}, {delta CH, ...},
--               newest task}; checkpoint is false where only writes have arrived
--   wNS:ID:TASK {task before it, path, {index, CH, kind, value, ...}}
--   vNS:CH:V    the channel's value: "b" and its bytes, or "l" and ranges of list positions
--   xNS:CH      how many list positions the channel has used
--   eNS:CH:I    the digest of the segment at list position I
--   sDIGEST     a segment: one or more elements of a list, stored once for the whole thread
--
-- Nothing is written before the end, and nothing before all that follows is found to be allowed, so
-- a failure leaves no half of it.
-- Uses nothing newer than Redis 5.

local key, argument, reading = KEYS[1], 0, ''
local staged = {}

local function take()
  argument = argument + 1
  return ARGV[argument]
end

local function take_number()
  return tonumber(take())
end

local function take_many()
  local many = {}
  for index = 1, take_number() do
    many[index] = take()
  end
  return many
end

local function get(field)
  local value = staged[field]
  if value == nil then
    return redis.call('HGET', key, field)
  end
  return value
end

-- Names a record that cannot be read.
local function damaged(field)
  error('DAMAGED [' .. field .. '] [' .. reading .. '] [' .. key .. ']')
end

local function get_record(field)
  local value = get(field)
  if not value then
    return value
  end
  local fine, record = pcall(cmsgpack.unpack, value)
  if not fine or type(record) ~= 'table' then
    damaged(field)
  end
  return record
end

-- A record that another one names.
local function named_record(field)
  return get_record(field) or damaged(field)
end

local function set_record(field, record)
  staged[field] = cmsgpack.pack(record)
end

local function drop(field)
  staged[field] = false
end

-- Runs a command on so many values that a script cannot pass them at once; answers all replies.
local function in_parts(command, values)
  local replies = {}
  for first = 1, #values, 7000 do
    local last = math.min(first + 6999, #values)
    local reply = redis.call(command, key, unpack(values, first, last))
    for _, each in ipairs(type(reply) == 'table' and reply or {}) do
      replies[#replies + 1] = each
    end
  end
  return replies
end

local function flush(ttl)
  local sets, gone = {}, {}
  for field, value in pairs(staged) do
    if value then
      sets[#sets + 1] = field
      sets[#sets + 1] = value
    else
      gone[#gone + 1] = field
    end
  end
  if #gone > 0 then
    demand('HDEL', key, gone[1])
  end
  if ttl ~= '0' then
    demand('EXPIRE', key, ttl)
  end
  in_parts('HSET', sets)
  in_parts('HDEL', gone)
  if ttl ~= '0' then
    redis.call('EXPIRE', key, ttl)
  end
end

local function checkpoint_field(ns, id)
  return 'c' .. ns .. ':' .. id
end

local function value_field(ns, channel, version)
  return 'v' .. ns .. ':' .. channel .. ':' .. version
end

local function position_field(ns, channel, index)
  return 'e' .. ns .. ':' .. channel .. ':' .. index
end

local function namespace(name, create)
  reading = name
  local found = get_record('n' .. name)
  if found or not create then
    return found
  end
  local header = get_record('#') or {0, false}
  found = {header[1], false, header[2]}
  header[1], header[2] = header[1] + 1, name
  set_record('#', header)
  set_record('n' .. name, found)
  return found
end

-- Calls act(name, record) for all namespaces, the oldest first.
local function each_namespace(act)
  local all, name = {}, (get_record('#') or {})[2]
  while name do
    reading = name
    local space = named_record('n' .. name)
    table.insert(all, 1, {name, space})
    name = space[3]
  end
  for _, found in ipairs(all) do
    reading = found[1]
    act(found[1], found[2])
  end
end

-- Whether one ID is above another by its bytes: Lua itself compares as the server's locale does.
local function is_above(one, other)
  for index = 1, math.min(#one, #other) do
    local left, right = one:byte(index), other:byte(index)
    if left ~= right then
      return left > right
    end
  end
  return #one > #other
end

-- Puts an ID, or false, into the chain below another one; below none it is the newest.
local function link(name, space, above, id)
  local field = above and checkpoint_field(space[1], above) or 'n' .. name
  local record = above and get_record(field) or space
  record[above and 1 or 2] = id
  set_record(field, record)
end

-- Finds a checkpoint, or puts an empty one into the chain, which goes from the newest ID down.
local function enter(name, space, id)
  local field = checkpoint_field(space[1], id)
  local found = get_record(field)
  if found then
    return found, field
  end
  local above, below = nil, space[2]
  while below and is_above(below, id) do
    above, below = below, named_record(checkpoint_field(space[1], below))[1]
  end
  found = {below, false, '', false, '', {}, {}, false}
  set_record(field, found)
  link(name, space, above, id)
  return found, field
end

local function each_checkpoint(space, act)
  local id = space[2]
  while id do
    local record = named_record(checkpoint_field(space[1], id))
    act(id, record)
    id = record[1]
  end
end

local function each_task(ns, id, record, act)
  local task = record[8]
  while task do
    local field = 'w' .. ns .. ':' .. id .. ':' .. task
    local writes = named_record(field)
    act(field, writes, task)
    task = writes[1]
  end
end

-- The ranges of positions of a value that is a list.
local function ranges_of(value)
  local ranges = {}
  if value and value:sub(1, 1) == 'l' then
    for first, last in value:gmatch('(%d+)-(%d+)') do
      ranges[#ranges + 1] = {tonumber(first), tonumber(last)}
    end
  end
  return ranges
end

-- Segments come as digest and bytes; without bytes they should be here already.
local function take_segments()
  local complete = true
  for _ = 1, take_number() do
    local field, bytes = 's' .. take(), take()
    if redis.call('HEXISTS', key, field) == 0 then
      complete = complete and bytes ~= ''
      staged[field] = bytes
    end
  end
  return complete
end
