-- Holds so much in all for a request under way, whether or not its lease has ended; says it twice, and it is held once.
-- KEYS: 5 marks of settled requests; then windows and buckets.
-- ask: epoch, lease, id, mark, amount (in all), more_tokens, record, budgets and rates as in reserve.lua; is_forced: hold
-- it whatever the budgets say, also while the books are put back.
-- Reply: what came of it, the place of the refusing budget, spent and held of every budget.

local written = open_books()
if not is_writable then
  return written
end
if not ask.is_forced and (epoch == '' or epoch ~= ask.epoch) then
  return { 'lost', 0 }
end
sweep()
if redis.call('SISMEMBER', KEYS[5], ask.mark) == 1 then
  return answer('settled', 0, budgets_now())
end

local before = redis.call('HGET', OPEN, ask.id)
local held = take(ask.id)
local place = nil
if not ask.is_forced then
  place = refusing_budget(budgets_now(), ask.amount)
end
if place then
  if before then
    put(ask.id, before, ask.lease)
  end
  return answer('budget', place, budgets_now())
end
put(ask.id, ask.record, ask.lease)
local more = ask.more_tokens
if held then
  more = cjson.decode(ask.record).t - held.t
end
if more ~= 0 then
  for _, rate in ipairs(ask.rates) do
    if rate.t then
      local key = KEYS[rate.k]
      set_used(key, 't', rate.t, used_of(key, 't', rate.t) + more * UNITS)
    end
  end
end
return answer('granted', 0, budgets_now())
