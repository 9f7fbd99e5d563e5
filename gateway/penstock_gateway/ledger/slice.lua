-- Holds a replica's slices of budgets, for when this server is away. KEYS: from 5 on windows.
-- ask: epoch, lease, budgets (i: id, w, s, f, l as in reserve.lua, want, least: spent from it already, share: it takes
-- at most one part in so many of what is free); is_forced: also while the books are put back.
-- Reply: 'held' or 'lost', then for every slice what it holds, and spent and held of its budget.

local written = open_books()
if not is_writable then
  return written
end
if not ask.is_forced and (epoch == '' or epoch ~= ask.epoch) then
  return { 'lost' }
end
sweep()

local function slice_of(budget)
  local spent = redis.call('HGET', KEYS[budget.w], budget.s) or '0'
  local held = redis.call('HGET', HELD, budget.f) or '0'
  local used_high, used_low = sum_of({ spent, held })
  local high, low = halves(budget.l)
  -- A double's error here is one part in 10^16 of a share of what is free: it cannot pass what is free.
  local free = (high - used_high) * 1e9 + (low - used_low)
  local part = math.floor(math.max(free, 0) / budget.share)
  local amount = budget.want
  if tonumber(amount) > part then
    amount = string.format('%.0f', part)
  end
  if is_above(budget.least, { amount }) then
    return amount
  end
  return budget.least
end

local reply = { 'held' }
for _, budget in ipairs(ask.budgets) do
  take(budget.i)
  local amount = slice_of(budget)
  if amount ~= '0' then
    put(budget.i, cjson.encode({ a = amount, t = 0, f = { budget.f }, p = {}, b = {} }), ask.lease)
  end
  reply[#reply + 1] = amount
  reply[#reply + 1] = redis.call('HGET', KEYS[budget.w], budget.s) or '0'
  reply[#reply + 1] = redis.call('HGET', HELD, budget.f) or '0'
end
return reply
