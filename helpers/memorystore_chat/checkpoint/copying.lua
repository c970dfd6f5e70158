-- Copies a thread, from KEYS[1] to KEYS[2] or, in a cluster, from the arguments to KEYS[1].

local ask = {}

-- Writes a thread's fields under a new key; again for the same token, it changes nothing.
local function write_copy(target, ttl, token, flat)
  key = target
  local header = get_record('#')
  if header then
    return header[3] == token and 'OK' or 'EXISTS'
  end
  for index = 1, #flat, 2 do
    staged[flat[index]] = flat[index + 1]
  end
  header = get_record('#')
  if header then
    header[3] = token
    set_record('#', header)
    flush(ttl)
  end
  return 'OK'
end

function ask.copy()
  return write_copy(KEYS[2], take(), take(), redis.call('HGETALL', KEYS[1]))
end

function ask.write()
  return write_copy(KEYS[1], take(), take(), take_many())
end

return ask[take()]()
