-- Predictors of output length (fairness/predict.py). What was seen of each tenant is in the hash :predict.

local predict = {}

-- Half to even, like Python.
local function round(x)
  local whole = math.floor(x)
  local rest = x - whole
  if rest > 0.5 or (rest == 0.5 and whole % 2 == 1) then
    return whole + 1
  end
  return whole
end

local function seen(tenant)
  local record = call("HGET", P .. ":predict", tenant)
  return record and unpack_record(record) or nil
end

local function summary(lengths)
  local p = settings.predict
  if p.kind == "quantile" then
    table.sort(lengths)
    return lengths[math.max(0, math.ceil(p.q * #lengths) - 1) + 1]
  end
  local sum = 0
  for _, length in ipairs(lengths) do
    sum = sum + length
  end
  return round(sum / #lengths)
end

local function guess(ticket)
  local kind = settings.predict.kind
  if kind == "none" then
    return 0
  elseif kind == "max_tokens" then
    return ticket.max
  end
  local known = seen(ticket.tenant)
  if not known then
    return 0
  end
  return kind == "ewma" and round(known[1]) or summary(known)
end

-- Output tokens to reserve and charge at dispatch.
function predict.output(ticket)
  return math.max(0, math.min(guess(ticket), ticket.max, room.largest() - ticket.n_in))
end

-- A ticket was served to its end.
function predict.observe(ticket)
  local p = settings.predict
  if p.kind == "none" or p.kind == "max_tokens" then
    return
  end
  local known = seen(ticket.tenant) or {}
  if p.kind == "ewma" then
    known = { (4 * (known[1] or 0) + ticket.produced) / 5 }
  else
    known[#known + 1] = ticket.produced
    if #known > p.k then
      table.remove(known, 1)
    end
  end
  call("HSET", P .. ":predict", ticket.tenant, pack(known))
end
