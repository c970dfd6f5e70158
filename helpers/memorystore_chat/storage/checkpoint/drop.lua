-- What put and prune share: taking checkpoints out, and what nothing needs any more.

local function version_of(record, channel)
  for index = 1, #record[6], 2 do
    if record[6][index] == channel then
      return record[6][index + 1]
    end
  end
end

local function has_value(ns, record, channel)
  local version = version_of(record, channel)
  return not version or get(value_field(ns, channel, version))
end

-- Ancestors that the delta channels of a checkpoint are computed from.
local function add_ancestors(ns, record, needed)
  for _, channel in ipairs(record[7]) do
    local descendant = record
    while not has_value(ns, descendant, channel) and descendant[2] do
      local id = descendant[2]
      descendant = get_record(checkpoint_field(ns, id))
      if not descendant or not descendant[4] then
        break
      end
      needed[id] = true
    end
  end
end

-- Takes checkpoints out of a namespace's chain; keeps(id, record, place among the whole ones).
local function thin(name, space, keeps)
  local kept, needed, place, dropped = {}, {}, 0, {}
  each_checkpoint(space[1], space[2], function(id, record)
    place = place + (record[4] and 1 or 0)
    kept[#kept + 1] = {id, record, keeps(id, record, place)}
    if kept[#kept][3] and record[4] then
      add_ancestors(space[1], record, needed)
    end
  end)
  local above = nil
  for _, entry in ipairs(kept) do
    local id, record = entry[1], entry[2]
    if entry[3] or needed[id] then
      if above and above[2][1] ~= id then
        above[2][1] = id
        set_record(checkpoint_field(space[1], above[1]), above[2])
      elseif not above and space[2] ~= id then
        space[2] = id
        set_record('n' .. name, space)
      end
      above = entry
    else
      dropped[#dropped + 1] = entry
    end
  end
  if #dropped == 0 then
    return false
  end
  if above then
    above[2][1] = false
    set_record(checkpoint_field(space[1], above[1]), above[2])
  else
    space[2] = false
    set_record('n' .. name, space)
  end
  for _, entry in ipairs(dropped) do
    each_task(space[1], entry[1], entry[2], drop)
    drop(checkpoint_field(space[1], entry[1]))
  end
  return true
end

local function mark_list(ns, channel, value, live)
  for _, range in ipairs(ranges_of(value)) do
    local fields = {}
    for index = range[1], range[2] do
      local field = position_field(ns, channel, index)
      live[field] = true
      fields[#fields + 1] = field
    end
    for first = 1, #fields, 7000 do
      local last = math.min(first + 6999, #fields)
      local digests = redis.call('HMGET', key, unpack(fields, first, last))
      for index = first, last do
        live['s' .. (staged[fields[index]] or digests[index - first + 1] or '')] = true
      end
    end
  end
end

-- Drops the values, positions and segments that no checkpoint uses any more. Answers whether any
-- checkpoint is left.
local function sweep()
  local live, left = {}, false
  for _, space in ipairs(namespaces()) do
    local ns = space[2]
    each_checkpoint(ns, space[3], function(id, record)
      left = true
      for index = 1, #record[6], 2 do
        local channel = record[6][index]
        local field = value_field(ns, channel, record[6][index + 1])
        live['x' .. ns .. ':' .. channel] = true
        local value = not live[field] and get(field)
        if value then
          live[field] = true
          if value:sub(1, 1) == 'l' then
            mark_list(ns, channel, value, live)
          end
        end
      end
      each_task(ns, id, record, function(_, writes)
        for index = 1, #writes[3], 4 do
          if writes[3][index + 2] == 'l' then
            for place = 1, #writes[3][index + 3], 16 do
              live['s' .. writes[3][index + 3]:sub(place, place + 15)] = true
            end
          end
        end
      end)
    end)
  end
  for _, field in ipairs(redis.call('HKEYS', key)) do
    local kind = field:sub(1, 1)
    if (kind == 'v' or kind == 'x' or kind == 'e' or kind == 's') and not live[field] then
      drop(field)
    end
  end
  return left
end

local function finish_dropping(ttl)
  if sweep() then
    flush(ttl)
  else
    redis.call('UNLINK', key)
  end
end
