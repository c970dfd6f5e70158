-- Raises the server's refusal of a command that is used later, before anything is written. `value` is
-- what the command takes after its key.
local function demand(command, key, value, ...)
  if redis.acl_check_cmd then -- Redis 7
    if not redis.acl_check_cmd(command, key, value, ...) then
      redis.call(command, key, value, ...)
    end
    return
  end
  -- Redis 6 looks at the right first and then at the number; no field of a hash has this name.
  local answer = redis.pcall(command, key, 'no number', ...)
  if type(answer) == 'table' and not string.find(answer.err, 'integer', 1, true) then
    error(answer.err)
  end
end
