-- Reads checkpoints, with each field that they refer to once.

local ask = {}

local function answer(found)
  local names, fields = {}, {}
  for name in pairs(segments) do
    names[#names + 1] = name
  end
  see(names)
  for field, value in pairs(seen) do
    if value then
      fields[#fields + 1] = field
      fields[#fields + 1] = value
    end
  end
  return {found, fields}
end

local function row(name, ns, id, record)
  see_values(ns, record)
  return {
    name, tostring(ns), id, record[2] or '', record[4], record[5], record[6],
    see_writes(ns, id, record),
  }
end

-- The checkpoint of this ID, if it has arrived.
local function whole(ns, id)
  local record = get_record(checkpoint_field(ns, id))
  return record and record[4] and record
end

-- The checkpoint that is asked for: by its ID, or the newest whole one.
local function chosen(space, id)
  if id ~= '' or not space then
    return id, space and whole(space[1], id)
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

function ask.get()
  local name = take()
  local space = namespace(name)
  local id, record = chosen(space, take())
  return answer({record and row(name, space[1], id, record) or nil})
end

function ask.list()
  local only, name, id, before, limit = take(), take(), take(), take(), take_number()
  local found = {}
  each_namespace(function(each_name, space)
    if only == '0' or each_name == name then
      each_checkpoint(space, function(each, record)
        if record[4] and (id == '' or each == id) and (before == '' or is_above(before, each))
          and (limit < 0 or #found < limit) then
          found[#found + 1] = row(each_name, space[1], each, record)
        end
      end)
    end
  end)
  return answer(found)
end

-- The way from a checkpoint's parent back to where each channel's value is stored.
function ask.history()
  local name = take()
  local space = namespace(name)
  local id, record = chosen(space, take())
  local wanted, found = {}, {}
  for _, channel in ipairs(take_many()) do
    wanted[channel] = true
  end
  while record and record[2] and next(wanted) do
    id = record[2]
    record = whole(space[1], id)
    if record then
      local versions, writes = {}, see_writes(space[1], id, record, wanted)
      for index = 1, #record[6], 2 do
        local channel, version = record[6][index], record[6][index + 1]
        if wanted[channel] and see_value(space[1], channel, version) then
          wanted[channel] = nil
          versions[#versions + 1], versions[#versions + 2] = channel, version
        end
      end
      found[#found + 1] = {name, tostring(space[1]), id, '', '', '', versions, writes}
    end
  end
  return answer(found)
end

return ask[take()]()
