-- Charges requests that are over and gives back what was held for them; each counts once, however often it is settled.
-- KEYS: from 5 on marks, windows and buckets.
-- ask: keep (seconds that a mark is kept), charges (i: id, k: key of marks, m: mark, a: amount, t: tokens,
-- s: scopes, w: keys of windows), rates (scope to key), ends (pairs of a window's key and when it may go, UNIX
-- seconds), released (ids that are given back without being charged).
-- Reply: epoch, charges counted, counters that are full, counters that hold no number.

local ONE_DAY = 86400

local written = open_books()
if not is_writable then
  return written
end
local counted, full, broken = 0, 0, 0

local function add(key, scope, amount)
  local total = redis.pcall('HINCRBY', key, scope, amount)
  if type(total) == 'table' and total.err then
    if string.find(total.err, 'overflow', 1, true) then
      redis.call('HSET', key, scope, '9223372036854775807')
      full = full + 1
    else
      broken = broken + 1
    end
  end
end

local function correct_tokens(record, tokens)
  if tokens == record.t then
    return
  end
  for _, pair in ipairs(record.b) do
    local place = ask.rates[pair[1]]
    if place then
      local key, limit = KEYS[place], pair[2]
      set_used(key, 't', limit, used_of(key, 't', limit) + (tokens - record.t) * UNITS)
    end
  end
end

for _, charge in ipairs(ask.charges) do
  local marks = KEYS[charge.k]
  local is_new = redis.call('SADD', marks, charge.m) == 1
  redis.call('EXPIRE', marks, ask.keep)
  if is_new then
    counted = counted + 1
    if charge.a ~= '0' then
      for _, window in ipairs(charge.w) do
        for _, scope in ipairs(charge.s) do
          add(KEYS[window], scope, charge.a)
        end
      end
    end
  end
  local record = take(charge.i)
  if record then
    correct_tokens(record, is_new and charge.t or 0)
  end
end
for _, id in ipairs(ask.released) do
  local record = take(id)
  if record then
    correct_tokens(record, 0)
  end
end
for _, pair in ipairs(ask.ends) do
  -- A replica whose clock is wrong files its spend under a window that is long over: that is kept for a day.
  redis.call('EXPIREAT', KEYS[pair[1]], string.format('%.0f', math.max(pair[2], math.floor(now / 1000) + ONE_DAY)))
end
sweep()
return { epoch, counted, full, broken }
