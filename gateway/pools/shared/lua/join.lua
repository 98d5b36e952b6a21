-- ["join", state]   all the pool knows of the calling replica is replaced by what the replica says
--
-- state  {"settings": text of the settings' JSON (settings.lua), "peers": replicas that were here when it last heard,
--         "running": [{"id", "tenant", "n_in", "cached", "max", "produced", "predicted", "worker", "number", "seq",
--                      "avoid": [...], "weights": [...], "charged": [...]}]        levels bottom up, charges in thousandths
--         "waiting": [{"id", "tenant", "n_in", "max", "seq", "avoid": [...]}],       seq -1: it has never been here
--         "book": {path: total charged, thousandths}, "joined": whether a join of this replica was ever applied,
--         "alone": {path: counter} of members that were lifted while the replica was alone,
--         "known": {"seq": n, "number": n, "shares": {path: [lifted, counter, floor, call]}}}   from replies; seq and
--                   number are beyond those it has heard of
-- O(tickets and paths of the replica). Said twice it changes nothing.

-- Out of the pool without a trace in the counters: the book tells what was charged.
local function remove(ticket)
  local line = tree.up(ticket.tenant)
  if ticket.state == "waiting" then
    tree.dequeue(ticket, line, false)
  else
    ledger.out_of_running(ticket, line)
  end
  store.drop_ticket(ticket)
end

-- Returns the members that wait because of tickets which wait on.
local function remove_all(replica, waiting)
  local waited, waits_on = {}, {}
  for _, said in ipairs(waiting) do
    waits_on[said.id] = true
  end
  for _, id in ipairs(call("SMEMBERS", P .. ":of:" .. replica)) do
    local ticket = store.ticket(id)
    if ticket and ticket.state == "waiting" and waits_on[id] then
      for _, share in ipairs(tree.up(ticket.tenant)) do
        waited[share.path] = true
      end
    end
  end
  for _, id in ipairs(call("SMEMBERS", P .. ":of:" .. replica)) do
    local ticket = store.ticket(id)
    if ticket then
      remove(ticket)
    end
  end
  return waited
end

-- Parents before their members.
local function by_depth(paths)
  local sorted = {}
  for path in pairs(paths) do
    sorted[#sorted + 1] = path
  end
  return tree.by_depth(sorted)
end

-- Who left the queue last is not known (`ended` 0): until a request leaves it again, the member with the highest counter
-- is taken for it, so that whoever begins to wait next begins with no less than others received. `settle_in` in
-- fairness/shares.py has an example.
local function leads(share)
  local group = store.share(share.group)
  local last = group.ended == 0 and store.share(group.ended_path)
  if group.ended < 0 or (last and last.counter < share.counter) then
    group.ended, group.ended_path = 0, share.path
    store.touch(group)
  end
end

-- A replica comes back and tells of service that the store did not know. In a group where nobody waits, a member that so
-- comes to have more than the one that is known to have left the queue last is taken for the last in its place.
local function overtakes(share)
  local group = store.share(share.group)
  local last = group.ended >= 0 and store.share(group.ended_path)
  if group.waiting == 0 and (not last or last.counter < share.counter) then
    group.ended, group.ended_path = math.max(group.ended, 0), share.path
    store.touch(group)
  end
end

-- The counter of a member in a store that forgot, as it was last heard of by anyone: `lifted` plus all books, or what
-- it was, if replicas that charged it are gone. One that was made for a ticket before anyone told of it stands at the
-- lift target (`guess`), and does not fall.
--
-- Example: a stood at 100, lifted by 20 and charged 30 by r1 and 50 by r2, when the store lost everything. r1 is back
-- first, tells [lifted 20, counter 100] and its book of 30: a stands at 100 again, the larger of what was told (100) and
-- of 20 + 30; the 50 that nobody here has charged count as lifted, so that lifted is 70. r2 comes, tells the same and its
-- book of 50: 20 + 80 is 100 too, and lifted is 20 again. Had r2 charged 25 more that r1 never heard of, its book would
-- be 75 and a at 20 + 105 = 125. Had r2 never come, a would have stayed at 100: what the dead have charged is not lost.
local function recall(share, known)
  local booked = store.booked(share.path)
  if not share.recalled or known[4] > share.at then
    share.recalled, share.told, share.at = known[1], known[2], known[4]
    share.floor = share.floor and math.max(share.floor, known[3])
  end
  local counter = math.max(share.guess or -math.huge, share.told or -math.huge, share.recalled + booked)
  tree.move(share, counter - share.counter)
  share.lifted = counter - booked
  leads(share)
end

local function remembered(path, known)
  local new = not store.share(path)
  local share = tree.ensure(path)
  if new then
    share.guess, share.at = nil, -1
  elseif not share.guess then
    share.recalled = share.recalled or share.lifted
  end
  return share
end

-- What the store has heard of the replica's book; nil when it knows neither the replica nor its book.
local function heard_of(replica, was_here)
  local heard = was_here and {} or nil
  local book = call("HGETALL", P .. ":book:" .. replica)
  for i = 1, #book, 2 do
    heard = heard or {}
    heard[book[i]] = tonumber(book[i + 1])
  end
  call("HDEL", P .. ":book:" .. replica, "") -- see reap.lua
  return heard
end

-- Charge the difference between what the replica says it has charged and what the store has heard. A replica whose
-- book the store lost, and that comes when all others have told what they remember, is believed but not charged for.
local function settle_book(replica, state, recalls, was_here)
  local heard = heard_of(replica, was_here) or (not state.joined and {})
  local charges = heard and true
  heard = heard or {}
  local told = {}
  for path in pairs(state.book) do
    told[path] = true
  end
  for path in pairs(heard) do -- also of turns that the replica never took
    told[path] = true
  end
  for path in pairs(recalls and state.known.shares or {}) do
    told[path] = true
  end
  told[""] = nil
  local paths = by_depth(told)
  for _, path in ipairs(paths) do
    local delta = (state.book[path] or 0) - (heard[path] or 0)
    local known = recalls and state.known.shares[path]
    if not settings.policy.tree and path:sub(-1) == "/" then
      store.book(replica, path, delta) -- of a policy that had groups
    elseif known then
      local share = remembered(path, known)
      store.book(replica, path, delta)
      recall(share, known)
    elseif charges and delta ~= 0 then
      local share = tree.ensure(path)
      store.book(replica, path, delta)
      tree.move(share, delta)
      overtakes(share)
    elseif delta ~= 0 then
      local share = store.share(path)
      store.book(replica, path, delta)
      if share then
        share.lifted = share.lifted - delta
        store.touch(share)
      end
    end
  end
  return paths
end

-- Members that were lifted while the replica was alone do not fall back.
--
-- Example: the store has a at 40. Alone, the replica lifted it to 100 and then charged it 30: 130. Its book has brought
-- the 30 to the store, so a stands at 70 here; the 60 that are missing were lifted, and are added to `lifted`.
local function keep_lifts(counters)
  local paths = {}
  for path in pairs(counters) do
    paths[path] = settings.policy.tree or path:sub(-1) ~= "/" or nil
  end
  for _, path in ipairs(by_depth(paths)) do
    local share = tree.ensure(path)
    local delta = counters[path] - share.counter
    if delta > 0 then
      share.lifted, share.at = share.lifted + delta, pool.calls
      tree.move(share, delta)
      overtakes(share)
    end
    paths[path] = true
  end
  return paths
end

local function recall_lift_target(known)
  local root = tree.root()
  if known[""] then
    root.floor = math.max(root.floor, known[""][3])
    store.touch(root)
  end
end

local function new_ticket(replica, said)
  local ticket = {
    id = said.id, tenant = said.tenant, replica = replica, n_in = said.n_in, max = said.max, avoid = {}, seq = said.seq,
    cached = 0, produced = 0, predicted = 0, reserved = 0, worker = "", number = -1, accounts = {},
  }
  if ticket.seq < 0 then
    ticket.seq = tree.next_seq()
  end
  for _, worker in ipairs(said.avoid) do
    ticket.avoid[worker] = true
  end
  call("SADD", P .. ":of:" .. replica, ticket.id)
  store.put_ticket(ticket)
  return ticket
end

local function put_running(replica, said)
  local ticket = new_ticket(replica, said)
  local line = tree.line(ticket.tenant)
  ticket.state, ticket.worker = "running", said.worker
  ticket.cached, ticket.produced, ticket.predicted = said.cached, said.produced, said.predicted
  ticket.number = said.number
  if ticket.number < 0 then
    ticket.number = pool.number
    pool.number = pool.number + 1
  end
  local worker = room.worker(said.worker)
  if worker then
    room.take(ticket, worker)
  end
  for i = 1, math.min(#said.charged, #line - 1) do
    local charged = said.charged[i]
    ticket.accounts[i] = { path = line[i].path, weight = said.weights[i], charged = charged, turn = line[i].first }
  end
  ledger.into_running(ticket, line)
  if tree.recalls then
    pool.most_held = math.max(pool.most_held, pool.held)
    pool.most_running = math.max(pool.most_running, tree.root().running)
  end
end

-- What waited all along keeps its counter; whoever else begins to wait is lifted, as always.
local function put_waiting(replica, said, waited, remembered)
  local ticket = new_ticket(replica, said)
  out.queued[#out.queued + 1] = { ticket.id, ticket.seq }
  tree.enqueue(ticket, tree.line(ticket.tenant), function(share)
    return not (waited[share.path] or (said.seq >= 0 and remembered[share.path]))
  end)
end

local function rest(paths)
  for i = #paths, 1, -1 do
    local share = store.share(paths[i])
    if share and share.path ~= "" then
      tree.rest(share)
    end
  end
end

-- Whether the store has forgotten what the replica remembers: tickets, or batches that it had answered.
local function forgot(state)
  return replicas.lost or state.known.seq > pool.seq
end

local function take_settings(text)
  local given = cjson.decode(text)
  if given.revision > pool.revision then
    configuration.adopt(text, given)
  end
end

-- Returns whether counters are to be recalled from what replicas remember.
local function begin(replica, state)
  take_settings(state.settings)
  if forgot(state) and not replicas.gathering() then
    replicas.gather(state.peers)
  end
  local recalls = forgot(state) or replicas.gathering()
  pool.seq = math.max(pool.seq, state.known.seq)
  pool.number = math.max(pool.number, state.known.number)
  for _, known in pairs(recalls and state.known.shares or {}) do
    pool.calls = math.max(pool.calls, known[4])
  end
  pool.epochs = pool.epochs + 1
  call("DEL", P .. ":grants:" .. replica)
  tree.recalls = recalls
  return recalls
end

local function arrive(replica)
  if not replicas.mine then
    call("PERSIST", P .. ":book:" .. replica)
    replicas.fold(replica, -1)
  end
  replicas.mine = { epoch = pool.epochs }
  replicas.renew(replica)
end

function op.join(replica, state)
  local recalls = begin(replica, state)
  local was_here = replicas.mine ~= nil
  arrive(replica)
  local waited = remove_all(replica, state.waiting)
  if recalls then
    recall_lift_target(state.known.shares)
  end
  local paths = settle_book(replica, state, recalls, was_here)
  local lifted = keep_lifts(state.alone or {})
  for _, said in ipairs(state.running) do
    put_running(replica, said)
  end
  for _, said in ipairs(state.waiting) do
    put_waiting(replica, said, waited, recalls and state.known.shares or {})
  end
  if not recalls then
    rest(paths)
    rest(by_depth(lifted))
  elseif not replicas.gathering() then
    tree.settle_down()
  end
end
