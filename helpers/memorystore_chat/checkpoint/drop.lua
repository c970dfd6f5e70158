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

-- Takes checkpoints out of a namespace's chain, unless keeps(record, place among the whole ones)
-- or others need them. Answers whether any was.
local function thin(name, space, keeps)
  local all, needed, place = {}, {}, 0
  each_checkpoint(space, function(id, record)
    place = place + (record[4] and 1 or 0)
    local kept = keeps(record, place)
    if kept and record[4] then
      add_ancestors(space[1], record, needed)
    end
    all[#all + 1] = {id, record, kept}
  end)
  local above, cut, dropped = nil, false, false
  for _, found in ipairs(all) do
    local id, record, kept = unpack(found)
    if kept or needed[id] then
      if cut then
        link(name, space, above, id)
      end
      above, cut = id, false
    else
      each_task(space[1], id, record, drop)
      drop(checkpoint_field(space[1], id))
      cut, dropped = true, true
    end
  end
  if cut then
    link(name, space, above, false)
  end
  return dropped
end

-- Drops the values, positions and segments that no checkpoint uses any more. Answers whether any
-- checkpoint is left.
local function sweep()
  local counters, left = {}, false
  each_namespace(function(_, space)
    each_checkpoint(space, function(id, record)
      left = true
      see_values(space[1], record)
      see_writes(space[1], id, record)
      for index = 1, #record[6], 2 do
        counters['x' .. space[1] .. ':' .. record[6][index]] = true
      end
    end)
  end)
  local fields = redis.call('HKEYS', key)
  for field, value in pairs(staged) do
    if value then
      fields[#fields + 1] = field
    end
  end
  for _, field in ipairs(fields) do
    if field:find('^[vxes]') and not (seen[field] or segments[field] or counters[field]) then
      drop(field)
    end
  end
  return left
end
