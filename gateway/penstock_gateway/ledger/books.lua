-- What every script of the ledger shares: the clock, exact sums, what is held and for how long.
-- Put in front of each script by redis_scripts.py. KEYS 1 to 4 are the same in all of them.
--
-- Exactness: amounts are decimal texts of whole picodollars, and counters are changed by HINCRBY, which is exact in 64
-- bits. Lua's numbers are doubles, exact to 2^53 (9,007 USD in picodollars), so amounts are never added as one number:
-- comparisons split them into two halves of nine digits. Tokens, milliseconds and bucket units stay far below 2^53.

local CLOCK, OPEN, LEASES, HELD = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local ask = cjson.decode(ARGV[1])
local UNITS = 60000 -- of a bucket for one request or token: a limit of L a minute refills L units a millisecond
local BUCKET_MS = 150000 -- after two minutes any bucket is whole again, see rates.py
local SWEPT_AT_ONCE, SWEEPS = 100, 10

local now, served, epoch, is_writable -- milliseconds, milliseconds, text, boolean

-- Leases run on a clock of their own, which stands still while nobody reaches this server: between two scripts it moves
-- on by at most `ask.step`, half a lease. So no lease ends because this server was paused, or its clock was set.
local function open_books()
  if ask.now then
    now = ask.now
  else
    local time = redis.call('TIME')
    now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  end
  local known = redis.call('HMGET', CLOCK, 'epoch', 'served', 'now')
  epoch = known[1] or ''
  local last = tonumber(known[3] or now)
  served = tonumber(known[2] or '0') + math.min(math.max(now - last, 0), ask.step)
  -- The first write of every script: a server that is out of memory or read-only refuses it, and nothing has changed.
  local written = redis.pcall('HSET', CLOCK, 'served', string.format('%.0f', served), 'now', string.format('%.0f', now))
  is_writable = type(written) ~= 'table'
  return written
end

local function halves(text)
  local length = #text
  if length <= 9 then
    return 0, tonumber(text)
  end
  return tonumber(string.sub(text, 1, length - 9)), tonumber(string.sub(text, length - 8))
end

local function sum_of(texts)
  local high, low = 0, 0
  for _, text in ipairs(texts) do
    local more_high, more_low = halves(text)
    high, low = high + more_high, low + more_low
  end
  local carry = math.floor(low / 1e9)
  return high + carry, low - carry * 1e9
end

local function is_above(limit, texts)
  local high, low = sum_of(texts)
  local limit_high, limit_low = halves(limit)
  return high > limit_high or (high == limit_high and low > limit_low)
end

local function change_held(field, change)
  -- A sum that does not fit is impossible within limits; a forced hold that meets one is left out.
  local total = redis.pcall('HINCRBY', HELD, field, change)
  if type(total) == 'number' and total <= 0 then
    redis.call('HDEL', HELD, field)
  end
end

-- A record says what is held for one request or slice: a: amount, t: tokens, f: fields of HELD that the amount is held
-- in, p: fields of HELD that count it as under way, b: pairs of a scope and its tokens a minute.
local function put(id, text, lease)
  local record = cjson.decode(text)
  if record.a ~= '0' then
    for _, field in ipairs(record.f) do
      change_held(field, record.a)
    end
  end
  for _, field in ipairs(record.p) do
    change_held(field, 1)
  end
  redis.call('HSET', OPEN, id, text)
  redis.call('ZADD', LEASES, string.format('%.0f', served + lease), id)
end

local function take(id)
  local text = redis.call('HGET', OPEN, id)
  if not text then
    return nil
  end
  local record = cjson.decode(text)
  if record.a ~= '0' then
    for _, field in ipairs(record.f) do
      change_held(field, '-' .. record.a)
    end
  end
  for _, field in ipairs(record.p) do
    change_held(field, -1)
  end
  redis.call('HDEL', OPEN, id)
  redis.call('ZREM', LEASES, id)
  return record
end

local function sweep()
  for _ = 1, SWEEPS do
    local ids = redis.call('ZRANGEBYSCORE', LEASES, '-inf', string.format('%.0f', served), 'LIMIT', 0, SWEPT_AT_ONCE)
    for _, id in ipairs(ids) do
      if not take(id) then
        redis.call('ZREM', LEASES, id)
      end
    end
    if #ids < SWEPT_AT_ONCE then
      return
    end
  end
end

-- The buckets of one scope. kind 'r' is of requests, 't' of tokens; a limit that is nil has no bucket.
local function set_used(key, kind, limit, used)
  used = math.min(math.max(used, 0), 2 * limit * UNITS)
  redis.call('HSET', key, kind, string.format('%.0f', used), kind .. 'at', string.format('%.0f', now))
  redis.call('PEXPIRE', key, BUCKET_MS)
  return used
end

-- Units used, after what has refilled.
local function used_of(key, kind, limit)
  local known = redis.call('HMGET', key, kind, kind .. 'at')
  local used, at = tonumber(known[1] or '0'), tonumber(known[2] or now)
  if at > now then -- the clock was set back: refill from here on, not when it has come as far again
    set_used(key, kind, limit, used)
    at = now
  end
  return math.max(0, used - limit * math.min(now - at, 2 * UNITS))
end

-- What is held in some fields, as texts.
local function held_in(fields)
  if #fields == 0 then
    return {}
  end
  local held = redis.call('HMGET', HELD, unpack(fields))
  for place = 1, #fields do
    held[place] = held[place] or '0'
  end
  return held
end

-- Spent and held of every budget asked about, as texts in turns.
local function budgets_now()
  local fields, counters = {}, {}
  for place, budget in ipairs(ask.budgets) do
    fields[place] = budget.f or ''
  end
  local held = held_in(fields)
  for place, budget in ipairs(ask.budgets) do
    counters[2 * place - 1] = redis.call('HGET', KEYS[budget.w], budget.s) or '0'
    counters[2 * place] = held[place]
  end
  return counters
end

-- The first budget that an amount does not fit into beside what is spent and held, or nil.
local function refusing_budget(counters, amount)
  for place, budget in ipairs(ask.budgets) do
    if is_above(budget.l, { counters[2 * place - 1], counters[2 * place], amount }) then
      return place
    end
  end
  return nil
end

-- A reply that begins with what came of it, and the counters of every budget.
local function answer(outcome, place, counters)
  local reply = { outcome, place }
  for _, counter in ipairs(counters) do
    reply[#reply + 1] = counter
  end
  return reply
end
