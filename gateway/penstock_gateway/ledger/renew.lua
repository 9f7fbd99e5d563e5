-- Prolongs the leases of requests under way, and notes up to when a log's charges are all counted.
-- KEYS: 5 logs. ask: lease, ids, log (with the replica's name) and through (both or none).
-- Reply: epoch, then the ids whose leases had ended.

local written = open_books()
if not is_writable then
  return written
end
local reply = { epoch }
for _, id in ipairs(ask.ids) do
  if redis.call('HEXISTS', OPEN, id) == 1 then
    redis.call('ZADD', LEASES, string.format('%.0f', served + ask.lease), id)
  else
    reply[#reply + 1] = id
  end
end
if ask.log and epoch ~= '' then
  redis.call('HSET', KEYS[5], ask.log, string.format('%.0f', ask.through))
end
sweep()
return reply
