-- Who pays: accounts at every level of the tree for a ticket in flight (fairness/ledger.py, exposure.py).

local ledger = {}

-- The ticket is in flight: its accounts are there, and its number.
function ledger.into_running(ticket, line)
  for _, share in ipairs(line) do
    share.running = share.running + 1
    store.touch(share)
    if tree.is_group(share) then
      call("ZADD", P .. ":running:" .. share.path, ticket.number, ticket.id)
    end
  end
  pool.held = pool.held + ticket.n_in + math.max(ticket.predicted, ticket.produced)
end

-- The ticket was given `worker`: open its accounts. Nothing is charged yet.
function ledger.open(ticket, line)
  ticket.number = pool.number
  pool.number = pool.number + 1
  ticket.accounts = {}
  for i = 1, #line do
    local share, group = line[i], line[i + 1]
    if group then
      ticket.accounts[i] = { path = share.path, weight = share.weight, charged = 0, turn = share.first }
      group.level = math.max(group.level, share.counter)
      share.overrun = 0
    end
  end
  ledger.into_running(ticket, line)
  pool.most_held = math.max(pool.most_held, pool.held)
  pool.largest = math.max(pool.largest, room.largest())
  pool.most_running = math.max(pool.most_running, store.share("").running)
end

-- Charge or refund, at every level, the difference between what the ticket owes and what it was charged. `growth`:
-- tokens by which it turned out larger than what it holds.
function ledger.settle(ticket, produced, growth)
  local unreserved = math.max(0, growth)
  if growth ~= 0 then
    pool.held = pool.held + growth
    room.grow(ticket, growth)
  end
  local service = cost.service(ticket.n_in, produced, ticket.cached)
  for _, account in ipairs(ticket.accounts) do
    local share = store.share(account.path)
    if unreserved > 0 then
      share.overrun = share.overrun + unreserved
      pool.overrun = math.max(pool.overrun, share.overrun)
      store.touch(share)
    end
    local due = cost.milli(service, account.weight)
    local delta = due - account.charged
    if delta ~= 0 then
      account.charged = due
      store.book(ticket.replica, account.path, delta)
      tree.move(share, delta)
    end
  end
  store.put_ticket(ticket)
end

-- The engine counted the input.
function ledger.correct(ticket, n_in, cached)
  local growth = n_in - ticket.n_in
  cached = math.min(cached, n_in)
  if growth < 0 or cached > ticket.cached then
    pool.input_refunded = true
  end
  ticket.n_in, ticket.cached = n_in, cached
  ledger.settle(ticket, math.max(ticket.predicted, ticket.produced), growth)
end

-- `produced` output tokens have been seen so far.
function ledger.charge(ticket, produced)
  if produced <= ticket.produced then
    return
  end
  local beyond = produced - math.max(ticket.produced, ticket.predicted)
  ticket.produced = produced
  store.put_ticket(ticket)
  if beyond > 0 then
    ledger.settle(ticket, produced, beyond)
  end
end

function ledger.out_of_running(ticket, line)
  pool.held = pool.held - ticket.n_in - math.max(ticket.predicted, ticket.produced)
  room.release(ticket)
  for _, share in ipairs(line) do
    share.running = share.running - 1
    store.touch(share)
    if tree.is_group(share) then
      call("ZREM", P .. ":running:" .. share.path, ticket.id)
    end
  end
end

-- The ticket is over: what was predicted and not produced is refunded, the rest is final.
function ledger.close(ticket)
  ledger.settle(ticket, ticket.produced, 0)
  local line = tree.up(ticket.tenant)
  ledger.out_of_running(ticket, line)
  for i = 1, #line - 1 do
    local share, group = line[i], line[i + 1]
    if ticket.number > group.ended then
      group.ended, group.ended_path = ticket.number, share.path
      store.touch(group)
    end
    tree.rest(share)
  end
  store.drop_ticket(ticket)
end

-- A requeued member is behind the peak that the others have reached: the bound is wider until it has made that up.
local function owe(share, account, group)
  if share.counter - account.charged < group.level then
    group.owed = group.level
    pool.owing[group.path] = true
    store.touch(group)
  end
end

-- What has been made up is no longer owed.
function ledger.forgive()
  for path in pairs(pool.owing) do
    local group = store.share(path)
    local least = group and tree.least(group)
    if not group or (least and least.counter >= group.owed) then
      pool.owing[path] = nil
      if group then
        group.owed = 0
        store.touch(group)
      end
    end
  end
end

-- The ticket was never dispatched: nothing was charged, and its groups' turns are still to come.
function ledger.undo(ticket)
  local line = tree.up(ticket.tenant)
  ledger.out_of_running(ticket, line)
  for i, account in ipairs(ticket.accounts) do
    local share = line[i]
    owe(share, account, line[i + 1])
    if tree.is_group(share) then
      share.first = share.waiting > 0 and math.min(share.first, account.turn) or account.turn
    end
    store.book(ticket.replica, account.path, -account.charged)
    tree.move(share, -account.charged)
  end
  ticket.produced, ticket.predicted, ticket.cached = 0, 0, 0
  ticket.worker, ticket.accounts = "", {}
end
