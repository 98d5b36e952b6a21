-- Room: what the workers of the pool can hold at once (fairness/room.py, gateway/pools/room.py, gateway/pools/slots.py).
--
-- A ticket in flight reserves n_in + max(predicted, produced) KV tokens and a slot on one worker. Any replica reports
-- what it sees of a worker; the latest report counts, and health is believed until it expires.

local room = {}

local FIRST_HOLD, LONGEST_HOLD, MAY_WAIT = 50, 2000, 1

local function healthy(worker)
  return worker.healthy_until > now
end

-- The slots that may be used now: none while the worker is held off after an overflow.
local function slots_now(worker)
  return worker.hold_until > now and 0 or worker.limit
end

function room.worker(id)
  for _, worker in ipairs(pool.workers) do
    if worker.id == id then
      return worker
    end
  end
end

-- Tokens of the largest healthy worker; with none healthy, of the largest of all.
function room.largest()
  local all, best = 0, 0
  for _, worker in ipairs(pool.workers) do
    all = math.max(all, worker.tokens)
    if healthy(worker) then
      best = math.max(best, worker.tokens)
    end
  end
  return best > 0 and best or all
end

function room.any_healthy()
  for _, worker in ipairs(pool.workers) do
    if healthy(worker) then
      return true
    end
  end
  return false
end

local function fits(worker, tokens)
  return worker.running < slots_now(worker) and worker.reserved + tokens <= worker.tokens
end

-- The healthy workers; those to avoid only when no other is left, or the head would block the pool.
local function eligible(ticket)
  local all, welcome = {}, {}
  for _, worker in ipairs(pool.workers) do
    if healthy(worker) then
      all[#all + 1] = worker
      if not ticket.avoid[worker.id] then
        welcome[#welcome + 1] = worker
      end
    end
  end
  return #welcome > 0 and welcome or all
end

-- Reserve room on the least loaded worker that can take the ticket, or return nil.
function room.place(ticket)
  local tokens = ticket.n_in + math.max(ticket.predicted, ticket.produced)
  local best, best_load
  for _, worker in ipairs(eligible(ticket)) do
    if fits(worker, tokens) then
      local load = math.max(worker.running / slots_now(worker), worker.reserved / worker.tokens)
      if not best or load < best_load then
        best, best_load = worker, load
      end
    end
  end
  if best then
    room.take(ticket, best)
  end
  return best
end

-- Reserve room on a worker whether it fits or not.
function room.take(ticket, worker)
  ticket.worker = worker.id
  ticket.reserved = ticket.n_in + math.max(ticket.predicted, ticket.produced)
  worker.running = worker.running + 1
  worker.reserved = worker.reserved + ticket.reserved
end

function room.grow(ticket, tokens)
  ticket.reserved = ticket.reserved + tokens
  local worker = room.worker(ticket.worker)
  if worker then
    worker.reserved = worker.reserved + tokens
  end
end

local function drop(removed)
  for i, worker in ipairs(pool.workers) do
    if worker == removed then
      table.remove(pool.workers, i)
      return
    end
  end
end

function room.release(ticket)
  local worker = room.worker(ticket.worker)
  if worker then
    worker.running = worker.running - 1
    worker.reserved = worker.reserved - ticket.reserved
    if worker.removed and worker.running == 0 then
      drop(worker)
    end
  end
  ticket.reserved = 0
end

-- -- what is known of the workers ----------------------------------------------------------------------------------

-- A worker that the configuration names, until it is found to be of another size.
function room.new_worker(id, slots, tokens)
  return {
    id = id, slots = slots, tokens = tokens, limit = slots, running = 0, reserved = 0,
    healthy_until = 0, hold_until = 0, hold = FIRST_HOLD, served = 0, named_slots = slots, named_tokens = tokens,
  }
end

-- A configuration names its size: one that it named before is less true than what was found since.
function room.name(worker, slots, tokens)
  if slots ~= worker.named_slots then
    worker.named_slots, worker.slots, worker.limit = slots, slots, slots
  end
  if tokens ~= worker.named_tokens then
    worker.named_tokens, worker.tokens = tokens, tokens
  end
end

-- The engine refused a request for want of room: hold it off, twice as long each time in a row, and then trust it
-- with what it ran.
local function overflowed(worker)
  worker.limit = math.min(worker.slots, math.max(1, worker.running - 1))
  worker.hold_until = now + worker.hold
  worker.hold = math.min(LONGEST_HOLD, 2 * worker.hold)
end

-- It served one: each round of requests gives one slot back.
function room.served(id)
  local worker = room.worker(id)
  if worker then
    worker.hold = FIRST_HOLD
    worker.served = worker.served + 1
    if worker.served >= worker.limit and worker.limit < worker.slots then
      worker.limit, worker.served = worker.limit + 1, 0
    end
  end
end

-- `waiting` requests wait inside the engine, where its order counts and not ours.
local function engine_waiting(worker, waiting)
  if waiting > MAY_WAIT then
    worker.limit = math.min(worker.limit, math.max(1, worker.running - waiting + MAY_WAIT))
    worker.served = 0
  end
end

-- report  {"healthy": bool, "ttl_ms": n} | {"slots": n, "tokens": n} | {"overflowed": true} | {"waiting": n}
function room.report(id, report)
  local worker = room.worker(id)
  if not worker or worker.removed then
    return
  end
  if report.healthy ~= nil then
    worker.healthy_until = report.healthy and now + report.ttl_ms or 0
  end
  if report.slots and report.slots ~= worker.slots then
    worker.slots, worker.limit = report.slots, report.slots
  end
  worker.tokens = report.tokens or worker.tokens
  if report.overflowed then
    overflowed(worker)
  end
  if report.waiting then
    engine_waiting(worker, report.waiting)
  end
end

-- Milliseconds until a worker that is held off may be used again, 0 when none is.
function room.hold()
  local first = 0
  for _, worker in ipairs(pool.workers) do
    local left = worker.hold_until - now
    if left > 0 and (first == 0 or left < first) then
      first = left
    end
  end
  return first
end
