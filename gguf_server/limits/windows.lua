-- The counts of `gguf_server/limits/windows.py` in a Redis or Valkey, all of one request at once.
--
-- KEYS: a hash for each meter, slot number -> amount.
-- ARGV: "take" or "settle", then for each meter: slot_s, width_s, limit, n, slot.
--   take: count n of each, if that is within every limit. settle: n more now, or less in that slot; limits do not matter.
-- Returns for each meter four texts: the slot counted in, how long it alone would have to wait, what is used, and until
-- when that counts, the times in seconds. Time is the server's own, so that the gateways' clocks do not matter.

local time = redis.call("TIME")
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local is_take = ARGV[1] == "take"

local function meter_at(i)
  local at = 1 + (i - 1) * 5
  local meter = {
    key = KEYS[i],
    slot_s = tonumber(ARGV[at + 1]),
    width_s = tonumber(ARGV[at + 2]),
    limit = tonumber(ARGV[at + 3]),
    n = tonumber(ARGV[at + 4]),
    slot = tonumber(ARGV[at + 5]),
    slots = {},
    used = 0,
    wait_s = 0,
  }
  meter.now_slot = math.floor(now / meter.slot_s)
  return meter
end

local function end_of(meter, slot)
  return (slot + 1) * meter.slot_s + meter.width_s
end

-- Slots that still count, oldest first. A clock that was set back makes it forget.
local function load(meter)
  local fields = redis.call("HGETALL", meter.key)
  for j = 1, #fields, 2 do
    local slot, n = tonumber(fields[j]), tonumber(fields[j + 1])
    if slot > meter.now_slot + 1 then
      redis.call("DEL", meter.key)
      meter.slots, meter.used = {}, 0
      return
    end
    if end_of(meter, slot) <= now then
      redis.call("HDEL", meter.key, fields[j])
    elseif n > 0 then
      table.insert(meter.slots, { slot, n })
      meter.used = meter.used + n
    end
  end
  table.sort(meter.slots, function(one, other) return one[1] < other[1] end)
end

local function wait_for(meter)
  local excess = meter.used + meter.n - meter.limit
  for _, slot in ipairs(meter.slots) do
    if excess <= 0 then return 0 end
    excess = excess - slot[2]
    if excess <= 0 then return end_of(meter, slot[1]) - now end
  end
  return 0
end

local function count(meter, slot, n)
  redis.call("HINCRBY", meter.key, slot, n)
  redis.call("EXPIREAT", meter.key, end_of(meter, meter.now_slot) + 60)
end

local meters, is_refused = {}, false
for i = 1, #KEYS do
  local meter = meter_at(i)
  load(meter)
  if is_take then
    meter.wait_s = wait_for(meter)
    is_refused = is_refused or meter.wait_s > 0
  end
  meters[i] = meter
end

local answer = {}
for _, meter in ipairs(meters) do
  if is_take and not is_refused or not is_take and meter.n > 0 then
    count(meter, meter.now_slot, meter.n)
  elseif not is_take and meter.n < 0 then
    local there = tonumber(redis.call("HGET", meter.key, meter.slot) or 0)
    if there > 0 then count(meter, meter.slot, -math.min(there, -meter.n)) end
  end
  meter.slots, meter.used = {}, 0
  load(meter)
  local newest = meter.slots[#meter.slots]
  table.insert(answer, string.format("%d", meter.now_slot))
  table.insert(answer, string.format("%.6f", meter.wait_s))
  table.insert(answer, string.format("%d", meter.used))
  table.insert(answer, string.format("%.6f", newest and end_of(meter, newest[1]) - now or 0))
end
return answer
