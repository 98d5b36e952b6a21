-- Picks until nothing fits: the member with the smallest counter, of that tenant the oldest ticket; if it does not fit,
-- nothing is dispatched. Reserves the room and charges the input in the same step. O(log n) a pick.
-- A grant is JSON {"ticket", "epoch", "number", "seq", "worker", "predicted", "weights"}, or {"ticket", "epoch",
-- "refused"} for a head that no healthy worker can ever take, which would block all others. The caller's own go into
-- its reply, those of other replicas to their streams :grants:<replica>, field "g".

local pick = {}

pick.MOST = 64 -- a call, so that no script runs for long

local function head()
  local share = tree.root()
  repeat
    share = tree.least(share)
  until not share or not tree.is_group(share)
  local id = share and call("ZRANGE", P .. ":queue:" .. share.path, 0, 0)[1]
  return id and store.ticket(id) or nil
end

local function tell(caller, ticket, grant)
  grant.ticket = ticket.id
  if ticket.replica == caller then
    grant.epoch = replicas.mine.epoch
    out.grants[#out.grants + 1] = cjson.encode(grant)
  else
    grant.epoch = replicas.epoch(ticket.replica)
    call("XADD", P .. ":grants:" .. ticket.replica, "*", "g", cjson.encode(grant))
  end
end

local function dispatch(ticket)
  local line = tree.up(ticket.tenant)
  ticket.state = "running"
  ledger.open(ticket, line)
  tree.dequeue(ticket, line, true)
  ledger.settle(ticket, ticket.predicted, 0)
end

local function grant_of(ticket)
  local weights = {}
  for i, account in ipairs(ticket.accounts) do
    weights[i] = string.format("%.17g", account.weight)
  end
  return {
    number = ticket.number, seq = ticket.seq, worker = ticket.worker, predicted = ticket.predicted, weights = weights,
  }
end

-- One turn: true when there may be another.
local function turn(caller)
  local ticket = head()
  if not ticket then
    return false
  end
  if ticket.n_in + 1 > room.largest() and room.any_healthy() then
    op.cancel(ticket.replica, ticket.id, ticket.n_in, 0, 0)
    tell(caller, ticket, { refused = "no_large_worker" })
    return true
  end
  ticket.predicted = predict.output(ticket)
  if not room.place(ticket) then
    return false
  end
  dispatch(ticket)
  tell(caller, ticket, grant_of(ticket))
  return true
end

-- Whether it stopped at its limit.
function pick.all(caller)
  for _ = 1, pick.MOST do
    if not turn(caller) then
      return false
    end
  end
  return true
end
