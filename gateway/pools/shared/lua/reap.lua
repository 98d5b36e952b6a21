-- Leases: a replica is here until its lease ends, which every call of its renews. Whoever calls next reaps what is left
-- of one that lapsed: waiting tickets leave, running ones are settled for what was last reported, their room is free,
-- its book is folded into `lifted`. O(tickets of that replica).
-- ["leave"]   the calling replica ends, now

replicas = { mine = nil, lost = false } -- of the caller: its record, and whether the store lost batches of it

local KEEP = 3600000 -- ms that the book of a lapsed replica is kept, should it only have been paused
local REAP_INTERVAL = 100 -- ms

function replicas.epoch(id)
  return tonumber(call("HGET", P .. ":replicas", id):match("^%d+"))
end

-- The replica's epoch and last batch. Two batches of a replica may be on their way at once, so the answers to its last two
-- are kept, in turns, each with its number. Only a repeated batch asks for them.
function replicas.recall(id)
  local record = call("HGET", P .. ":replicas", id)
  local epoch, batch = (record or ""):match("^(%d+) (%d+)$")
  replicas.mine = epoch and { epoch = tonumber(epoch), batch = tonumber(batch) } or nil
end

local function answer_field(id, batch)
  return id .. ":" .. batch % 2
end

function replicas.remember(id, batch, answer)
  call("HSET", P .. ":replicas", id, string.format("%d %d", replicas.mine.epoch, batch))
  call("HSET", P .. ":answers", answer_field(id, batch), pack({ batch, answer }))
end

-- What a batch was answered that was applied before, or nil.
function replicas.answer(id, batch)
  if not replicas.mine or batch > replicas.mine.batch then
    return nil
  end
  local kept = call("HGET", P .. ":answers", answer_field(id, batch))
  kept = kept and unpack_record(kept)
  return kept and kept[1] == batch and kept[2] or nil
end

function replicas.renew(id)
  call("ZADD", P .. ":leases", now + settings.lease_ms, id)
end

-- `sign` 1: what `id` was charged counts as lifted from now on; -1: it has come back.
function replicas.fold(id, sign)
  store.save_books()
  local book = call("HGETALL", P .. ":book:" .. id)
  for i = 1, #book, 2 do
    local share = store.share(book[i])
    if share then
      share.lifted = share.lifted + sign * tonumber(book[i + 1])
      share.at = pool.calls
      store.touch(share)
    end
  end
end

-- What a death costs, by example at h = n_in + 2 n_out: r1 has a ticket of tenant a with 10 tokens of input, charged 50
-- with its 20 predicted output tokens, and has reported 4 of them when it dies. Once its lease has ended the ticket is
-- settled for what was reported: a stands at 18, 32 are refunded. What the engine produced after the report is charged
-- to nobody. r1's book of 18 becomes a part of `lifted`, so the counter stays. If r1 was only paused, and joins within
-- KEEP with a book of 28 (it had seen 9 tokens), the 18 go back from `lifted` to its book and a is charged the other 10.
local function forget(id)
  for _, ticket_id in ipairs(call("SMEMBERS", P .. ":of:" .. id)) do
    local ticket = store.ticket(ticket_id)
    if ticket then
      op.cancel(id, ticket_id, ticket.n_in, ticket.cached, ticket.produced)
    end
  end
  replicas.fold(id, 1)
  call("ZREM", P .. ":leases", id)
  call("HDEL", P .. ":replicas", id)
  call("HDEL", P .. ":answers", answer_field(id, 0), answer_field(id, 1))
  call("DEL", P .. ":of:" .. id, P .. ":grants:" .. id)
end

-- Not while the pool gathers: leases of a store that forgot mean nothing.
function replicas.reap(caller)
  if now < pool.reap_at or replicas.gathering() then
    return
  end
  pool.reap_at = now + REAP_INTERVAL
  for _, id in ipairs(call("ZRANGEBYSCORE", P .. ":leases", "-inf", now)) do
    if id ~= caller then
      forget(id)
      call("HSET", P .. ":book:" .. id, "", 0) -- there was one, though perhaps an empty one
      call("PEXPIRE", P .. ":book:" .. id, KEEP)
    end
  end
end

function op.leave(replica)
  forget(replica)
  call("DEL", P .. ":book:" .. replica)
  replicas.mine = nil
end

-- -- gathering -----------------------------------------------------------------------------------------------------

-- A store that forgot waits until as many replicas are back as were here, one lease at most.
function replicas.gather(expected)
  if expected > 1 then
    pool.gather_until, pool.expected, pool.present = now + settings.lease_ms, expected, {}
  end
end

function replicas.gathering()
  return pool.gather_until > now
end

-- How many replicas there are, as far as can be known.
function replicas.here()
  local here = call("ZCARD", P .. ":leases")
  return replicas.gathering() and math.max(here, pool.expected) or here
end

-- Nobody called for longer than a lease: who is back first must not take the others for dead.
function replicas.was_silent()
  return pool.last_call ~= nil and now - pool.last_call > settings.lease_ms
end

-- A replica has joined, or called after it had.
function replicas.is_present(id)
  if pool.gather_until == 0 then
    return
  end
  pool.present[id] = true
  local present = 0
  for _ in pairs(pool.present) do
    present = present + 1
  end
  if present >= pool.expected or now >= pool.gather_until then
    pool.gather_until, pool.present = 0, {}
    tree.settle_down()
  end
end
