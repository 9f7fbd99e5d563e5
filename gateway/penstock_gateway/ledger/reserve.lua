-- Holds a request on all of its accounts, or on none. KEYS: 5 marks of settled requests; then windows and buckets.
-- ask: epoch, lease, id, mark, amount, tokens, record, budgets (w: key, s: scope, f: field of HELD, l: limit),
-- rates (k: key, s: scope, r and t: a minute, p: parallel, f: field of HELD).
-- Reply: what came of it, the place of the refusing budget or account, spent and held of every budget, then units used
-- of requests and tokens, and requests under way, of every account.

local written = open_books()
if not is_writable then
  return written
end
if epoch == '' or epoch ~= ask.epoch then
  return { 'lost', 0 }
end
sweep()

local counters = budgets_now()
local uses, parallel_fields = {}, {}
for place, rate in ipairs(ask.rates) do
  local key = KEYS[rate.k]
  uses[place] = { r = rate.r and used_of(key, 'r', rate.r) or 0, t = rate.t and used_of(key, 't', rate.t) or 0 }
  parallel_fields[place] = rate.f
end
local parallel = held_in(parallel_fields)

local function reply(outcome, place)
  local found = answer(outcome, place, counters)
  for at, use in ipairs(uses) do
    found[#found + 1] = string.format('%.0f', use.r)
    found[#found + 1] = string.format('%.0f', use.t)
    found[#found + 1] = parallel[at]
  end
  return found
end

if redis.call('SISMEMBER', KEYS[5], ask.mark) == 1 then
  return reply('settled', 0)
end
if redis.call('HEXISTS', OPEN, ask.id) == 1 then
  redis.call('ZADD', LEASES, string.format('%.0f', served + ask.lease), ask.id)
  return reply('open', 0)
end

if ask.amount ~= '0' then
  local place = refusing_budget(counters, ask.amount)
  if place then
    return reply('budget', place)
  end
end
for place, rate in ipairs(ask.rates) do
  if rate.r and uses[place].r + UNITS > rate.r * UNITS then
    return reply('requests', place)
  end
  if rate.t and uses[place].t + ask.tokens * UNITS > rate.t * UNITS then
    return reply('tokens', place)
  end
  if rate.p and tonumber(parallel[place]) >= rate.p then
    return reply('parallel', place)
  end
end

put(ask.id, ask.record, ask.lease)
for place, rate in ipairs(ask.rates) do
  local key, use = KEYS[rate.k], uses[place]
  use.r = rate.r and set_used(key, 'r', rate.r, use.r + UNITS) or 0
  use.t = rate.t and set_used(key, 't', rate.t, use.t + ask.tokens * UNITS) or 0
end
counters, parallel = budgets_now(), held_in(parallel_fields)
return reply('granted', 0)
