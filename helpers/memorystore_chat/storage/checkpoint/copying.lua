-- Copies a thread, from KEYS[1] to KEYS[2] or, in a cluster, from the arguments to KEYS[1].

local ask = {}

-- Writes a thread's fields under a new key; again for the same token, it changes nothing.
local function write_copy(target, ttl, token, flat)
  local there = redis.call('HGET', target, '#')
  if there then
    return cmsgpack.unpack(there)[3] == token and 'OK' or 'EXISTS'
  end
  key = target
  for index = 1, #flat, 2 do
    if flat[index] == '#' then
      local header = cmsgpack.unpack(flat[index + 1])
      flat[index + 1] = cmsgpack.pack({header[1], header[2], token})
    end
  end
  if ttl ~= '0' then
    demand('EXPIRE', key, ttl)
  end
  in_parts('HSET', flat)
  if ttl ~= '0' then
    redis.call('EXPIRE', key, ttl)
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
