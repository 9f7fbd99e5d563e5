-- Whether the books are whole; and when they were lost, when they are whole again.
-- KEYS: 5 logs, 6 replicas that put their charges back. ask: log, replica, state ('look', 'busy', 'done' or 'close'),
-- through (UNIX milliseconds), new_epoch, grace and stale (milliseconds).
-- Reply: epoch (empty while the books are not whole), and up to when the log's charges are counted (empty: not at all).

local DEAD_MS = 600000 -- a replica that is alive says every few seconds how far it is

local written = open_books()
if not is_writable then
  return written
end
local prefix = ask.log .. ' '

-- The log is counted as far as the replica that is least far, of those that write it; all of them may have been killed.
local function counted()
  local whole = redis.call('HGET', KEYS[5], ask.log) or ''
  local least = nil
  local entries = redis.call('HGETALL', KEYS[5])
  for place = 1, #entries, 2 do
    if string.sub(entries[place], 1, #prefix) == prefix then
      least = math.min(least or math.huge, tonumber(entries[place + 1]))
    end
  end
  if whole ~= '' and least then
    return string.format('%.0f', least)
  end
  return whole
end

local function note_done()
  local through = string.format('%.0f', ask.through)
  redis.call('HSET', KEYS[5], ask.log, through, prefix .. ask.replica, through)
  local entries = redis.call('HGETALL', KEYS[5])
  for place = 1, #entries, 2 do
    local is_of_log = string.sub(entries[place], 1, #prefix) == prefix
    if is_of_log and tonumber(entries[place + 1]) < ask.through - DEAD_MS then
      redis.call('HDEL', KEYS[5], entries[place])
    end
  end
end

local function are_all_done()
  local entries = redis.call('HGETALL', KEYS[6])
  for place = 1, #entries, 2 do
    local state, at = string.match(entries[place + 1], '^(%a+) (%d+)$')
    if entries[place] == 'since' then
      if now - tonumber(entries[place + 1]) < ask.grace then
        return false
      end
    elseif state == 'busy' and now - tonumber(at) < ask.stale then
      return false
    end
  end
  return true
end

if ask.state == 'close' then
  redis.call('HSET', KEYS[5], ask.log, string.format('%.0f', ask.through))
  redis.call('HDEL', KEYS[5], prefix .. ask.replica)
elseif ask.state == 'done' then
  note_done()
end
if epoch == '' and (ask.state == 'busy' or ask.state == 'done') then
  redis.call('HSETNX', KEYS[6], 'since', string.format('%.0f', now))
  redis.call('HSET', KEYS[6], 'replica ' .. ask.replica, ask.state .. ' ' .. string.format('%.0f', now))
  redis.call('EXPIRE', KEYS[6], 3600)
  if ask.state == 'done' and are_all_done() then
    redis.call('HSET', CLOCK, 'epoch', ask.new_epoch)
    redis.call('DEL', KEYS[6])
    epoch = ask.new_epoch
  end
end
return { epoch, counted() }
