-- Stores what a task wrote, before or after its checkpoint arrives.

local ttl, name, id, task, path = take(), take(), take(), take(), take()
local space = namespace(name, true)
local record, field = enter(name, space, id)
take_segments()
local task_field = 'w' .. space[1] .. ':' .. id .. ':' .. task
local writes = get_record(task_field)
if not writes then
  writes = {record[8], path, {}}
  record[8] = task
  set_record(field, record)
end
local places = {}
for index = 1, #writes[3], 4 do
  places[writes[3][index]] = index
end
for _ = 1, take_number() do
  local place, channel, kind, value = take(), take(), take(), take()
  local index = places[place]
  -- Those with a negative index, such as an error, replace what is there.
  if not index or place:sub(1, 1) == '-' then
    index = index or #writes[3] + 1
    places[place] = index
    writes[3][index], writes[3][index + 1] = place, channel
    writes[3][index + 2], writes[3][index + 3] = kind, value
  end
end
set_record(task_field, writes)
flush(ttl)
return 'OK'
