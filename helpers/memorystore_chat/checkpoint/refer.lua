-- What checkpoints refer to.

-- Fields that were read, each once, with their value or false; and names of segments.
local seen, segments = {}, {}

local function see(fields)
  local unseen = {}
  for _, field in ipairs(fields) do
    if seen[field] == nil then
      seen[field] = staged[field] or false
      if staged[field] == nil then
        unseen[#unseen + 1] = field
      end
    end
  end
  for index, value in ipairs(in_parts('HMGET', unseen)) do
    seen[unseen[index]] = value
  end
end

-- Sees a channel's value and the list positions it has; answers whether it is stored.
local function see_value(ns, channel, version)
  local field, places = value_field(ns, channel, version), {}
  if seen[field] == nil then
    see({field})
    for _, range in ipairs(ranges_of(seen[field])) do
      for index = range[1], range[2] do
        places[#places + 1] = position_field(ns, channel, index)
      end
    end
    see(places)
    for _, place in ipairs(places) do
      segments['s' .. (seen[place] or '')] = true
    end
  end
  return seen[field]
end

local function see_values(ns, record)
  for index = 1, #record[6], 2 do
    see_value(ns, record[6][index], record[6][index + 1])
  end
end

-- The writes of a checkpoint's tasks, all or those to some channels: {path, task, index, channel,
-- kind, value} each.
local function see_writes(ns, id, record, wanted)
  local found = {}
  each_task(ns, id, record, function(_, writes, task)
    for index = 1, #writes[3], 4 do
      local place, channel, kind, value = unpack(writes[3], index, index + 3)
      if not wanted or wanted[channel] then
        for start = 1, kind == 'l' and #value or 0, 16 do
          segments['s' .. value:sub(start, start + 15)] = true
        end
        found[#found + 1] = {writes[2], task, place, channel, kind, value}
      end
    end
  end)
  return found
end
