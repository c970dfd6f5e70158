-- Deletes checkpoints of a thread.

local ask = {}

local function keep_only(keeps)
  local dropped = false
  each_namespace(function(name, space)
    dropped = thin(name, space, keeps) or dropped
  end)
  return dropped
end

local function finish()
  if sweep() then
    flush('0')
  else
    redis.call('UNLINK', key)
  end
  return 'OK'
end

-- Keeps the newest checkpoint of each namespace, and what its delta channels are computed from.
function ask.prune()
  keep_only(function(_, place) return place <= 1 end)
  return finish()
end

-- Deletes the checkpoints of runs, unless a later one's delta channels are computed from them.
function ask.delete_runs()
  local runs, refused = {}, false
  for _, run in ipairs(take_many()) do
    runs[run] = true
  end
  each_namespace(function(_, space)
    local needed = {}
    each_checkpoint(space, function(_, record)
      if record[4] and not runs[record[3]] then
        add_ancestors(space[1], record, needed)
      end
    end)
    for id in pairs(needed) do
      refused = refused or runs[get_record(checkpoint_field(space[1], id))[3]]
    end
  end)
  if refused then
    return 'NEEDED'
  end
  return keep_only(function(record) return not runs[record[3]] end) and finish() or 'OK'
end

return ask[take()]()
