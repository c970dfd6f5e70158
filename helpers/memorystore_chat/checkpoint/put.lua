-- Stores a checkpoint, with the values that are new in it.

local MOST_RANGES = 64
local complete = true

local function push(ranges, first, last)
  local newest = ranges[#ranges]
  if newest and newest[2] + 1 == first then
    newest[2] = last
  else
    ranges[#ranges + 1] = {first, last}
  end
end

local function append(ns, channel, ranges, digest)
  local counter = 'x' .. ns .. ':' .. channel
  local index = tonumber(get(counter) or 0)
  staged[counter] = tostring(index + 1)
  staged[position_field(ns, channel, index)] = digest
  push(ranges, index, index)
end

-- Positions `start` to `start + count - 1` of an earlier version, as they lie in the list.
local function copy_part(from, start, count, into)
  for _, range in ipairs(from) do
    local length = range[2] - range[1] + 1
    if start < length and count > 0 then
      local taken = math.min(count, length - start)
      push(into, range[1] + start, range[1] + start + taken - 1)
      start, count = 0, count - taken
    else
      start = start - length
    end
  end
  complete = complete and count == 0
end

-- Many edits leave many ranges: then the version is written anew in one piece.
local function joined(ns, channel, ranges)
  if #ranges <= MOST_RANGES then
    return ranges
  end
  local whole = {}
  for _, range in ipairs(ranges) do
    for index = range[1], range[2] do
      append(ns, channel, whole, get(position_field(ns, channel, index)))
    end
  end
  return whole
end

local function take_list(ns, channel)
  local base, ranges, text = take(), {}, {}
  local from = ranges_of(base ~= '' and get(value_field(ns, channel, base)))
  for _ = 1, take_number() do
    if take() == 'copy' then
      copy_part(from, take_number(), take_number(), ranges)
    else
      append(ns, channel, ranges, take())
    end
  end
  for number, range in ipairs(joined(ns, channel, ranges)) do
    text[number] = range[1] .. '-' .. range[2]
  end
  return 'l' .. table.concat(text, ',')
end

local ttl, keep, name, id, parent = take(), take_number(), take(), take(), take()
local run, checkpoint, metadata = take(), take(), take()
local versions, deltas, inherits = take_many(), take_many(), take()
local space = namespace(name, true)
local ns = space[1]
local record, field = enter(name, space, id)
if record[4] == checkpoint and record[5] == metadata then
  staged = {} -- it is stored already: its reply was lost and the client has sent it again
  flush(ttl)
  return 'OK'
end
complete = take_segments()
for _ = 1, take_number() do
  local channel, version = take(), take()
  local value = take() == 'list' and take_list(ns, channel) or take()
  staged[value_field(ns, channel, version)] = value
end
local before = parent ~= '' and get_record(checkpoint_field(ns, parent))
-- Values that are not sent are those of the parent, which may have been dropped.
if not complete or (inherits == '1' and parent ~= '' and not (before and before[4])) then
  return 'RESEND'
end
record[2], record[3], record[4], record[5] = parent ~= '' and parent, run, checkpoint, metadata
record[6] = versions
-- A delta channel stays one until its value is stored.
local known = {}
for _, channel in ipairs(deltas) do
  known[channel] = true
end
for _, channel in ipairs(before and before[7] or {}) do
  if not known[channel] and not has_value(ns, record, channel) then
    deltas[#deltas + 1] = channel
  end
end
record[7] = deltas
set_record(field, record)
if keep > 0 and thin(name, space, function(_, place) return place <= keep end) then
  sweep()
end
flush(ttl)
return 'OK'
