-- Reads checkpoints, with each field that they refer to once.

-- Collects the fields that an answer's checkpoints refer to, each once.
local fields, collected = {}, {}

local function add(field, value)
  collected[field] = value
  if value then
    fields[#fields + 1] = field
    fields[#fields + 1] = value
  end
end

local function collect(names)
  local new = {}
  for _, field in ipairs(names) do
    if collected[field] == nil then
      collected[field] = false
      new[#new + 1] = field
    end
  end
  for first = 1, #new, 7000 do
    local last = math.min(first + 6999, #new)
    for index, value in ipairs(redis.call('HMGET', key, unpack(new, first, last))) do
      add(new[first + index - 1], value)
    end
  end
end

local function collect_segments(digests)
  local names = {}
  for index, digest in ipairs(digests) do
    names[index] = 's' .. digest
  end
  collect(names)
end

local function collect_value(ns, channel, version)
  local field = value_field(ns, channel, version)
  if collected[field] ~= nil then
    return collected[field]
  end
  collect({field})
  local value = collected[field]
  if value and value:sub(1, 1) == 'l' then
    local places, digests = {}, {}
    for _, range in ipairs(ranges_of(value)) do
      for index = range[1], range[2] do
        places[#places + 1] = position_field(ns, channel, index)
      end
    end
    collect(places)
    for index, place in ipairs(places) do
      digests[index] = collected[place] or ''
    end
    collect_segments(digests)
  end
  return value
end

local function writes_of(ns, id, record, wanted)
  local found = {}
  each_task(ns, id, record, function(_, writes, task)
    for index = 1, #writes[3], 4 do
      local place, channel, kind, value = unpack(writes[3], index, index + 3)
      if not wanted or wanted[channel] then
        if kind == 'l' then
          local digests = {}
          for start = 1, #value, 16 do
            digests[#digests + 1] = value:sub(start, start + 15)
          end
          collect_segments(digests)
        end
        found[#found + 1] = {writes[2], task, place, channel, kind, value}
      end
    end
  end)
  return found
end

local function answer(name, ns, id, record)
  for index = 1, #record[6], 2 do
    collect_value(ns, record[6][index], record[6][index + 1])
  end
  return {
    name, tostring(ns), id, record[2] or '', record[4], record[5], record[6],
    writes_of(ns, id, record),
  }
end

-- The checkpoint that is asked for: by its ID, or the newest whole one.
local function chosen(space, id)
  if id ~= '' then
    local record = get_record(checkpoint_field(space[1], id))
    return record and record[4] and id, record
  end
  id = space[2]
  while id do
    local record = named_record(checkpoint_field(space[1], id))
    if record[4] then
      return id, record
    end
    id = record[1]
  end
end

local ask = {}

function ask.get()
  local name, id = take(), take()
  local space = namespace(name)
  local found, record = nil, nil
  if space then
    found, record = chosen(space, id)
  end
  if not found then
    return {{}, {}}
  end
  local checkpoint = answer(name, space[1], found, record)
  return {{checkpoint}, fields}
end

function ask.list()
  local only, name, id, before, limit = take(), take(), take(), take(), take_number()
  local found = {}
  for _, space in ipairs(namespaces()) do
    reading = space[1]
    if only == '0' or space[1] == name then
      each_checkpoint(space[2], space[3], function(each, record)
        if record[4] and (id == '' or each == id) and (before == '' or is_above(before, each))
          and (limit < 0 or #found < limit) then
          found[#found + 1] = answer(space[1], space[2], each, record)
        end
      end)
    end
  end
  return {found, fields}
end

-- The way from a checkpoint's parent back to where each channel's value is stored.
function ask.history()
  local name, id = take(), take()
  local wanted, left, found = {}, 0, {}
  for _, channel in ipairs(take_many()) do
    wanted[channel] = true
    left = left + 1
  end
  local space = namespace(name)
  local current, record = nil, nil
  if space then
    current, record = chosen(space, id)
  end
  while current and record[2] and left > 0 do
    current = record[2]
    record = get_record(checkpoint_field(space[1], current))
    if not record or not record[4] then
      break
    end
    local entry = {writes_of(space[1], current, record, wanted), {}}
    for index = 1, #record[6], 2 do
      local channel, version = record[6][index], record[6][index + 1]
      if wanted[channel] and collect_value(space[1], channel, version) then
        table.insert(entry[2], channel)
        table.insert(entry[2], value_field(space[1], channel, version))
      end
    end
    for index = 1, #entry[2], 2 do
      wanted[entry[2][index]] = nil
      left = left - 1
    end
    found[#found + 1] = entry
  end
  return {found, fields}
end

return ask[take()]()
