-- Deletes checkpoints of a thread.

local ask = {}

-- Keeps the newest checkpoint of each namespace, and what its delta channels are computed from.
function ask.prune()
  for _, space in ipairs(namespaces()) do
    thin(space[1], get_record('n' .. space[1]), function(_, _, place) return place <= 1 end)
  end
  finish_dropping('0')
  return 'OK'
end

-- Deletes the checkpoints of runs, unless a later one's delta channels are computed from them.
function ask.delete_runs()
  local runs, dropped = {}, false
  for _, run in ipairs(take_many()) do
    runs[run] = true
  end
  for _, space in ipairs(namespaces()) do
    local needed = {}
    each_checkpoint(space[2], space[3], function(_, record)
      if record[4] and not runs[record[3]] then
        add_ancestors(space[2], record, needed)
      end
    end)
    for id in pairs(needed) do
      if runs[get_record(checkpoint_field(space[2], id))[3]] then
        return 'NEEDED'
      end
    end
    local own = get_record('n' .. space[1])
    dropped = thin(space[1], own, function(_, record) return not runs[record[3]] end) or dropped
  end
  if dropped then
    finish_dropping('0')
  end
  return 'OK'
end

return ask[take()]()
