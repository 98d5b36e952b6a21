-- The tree of shares: who is next among the members of a group, lift, and oblivion (fairness/shares.py, forest.py).
--
-- A member that waits stands in its group's :order by counter, and among equals by precedence: the sequence number of
-- a tenant's oldest ticket, or when a group last took a turn or began to wait. The precedence is the beginning of the
-- member's name there, since a sorted set orders equal scores by name. The score of FCFS is 0 for all (quantum 0).

local tree = { recalls = false } -- recalls: counters are coming back from what replicas remember

function tree.is_group(share)
  return share.path == "" or share.path:sub(-1) == "/"
end

local function next_seq()
  pool.seq = pool.seq + 1
  return pool.seq - 1
end
tree.next_seq = next_seq

-- The paths above a tenant, the topmost first, without the root.
function tree.above(tenant)
  local paths = {}
  if settings.policy.tree then
    for stop in tenant:gmatch("()/") do
      paths[#paths + 1] = tenant:sub(1, stop)
    end
  end
  return paths
end

function tree.weight_of(path)
  local weight = call("HGET", P .. ":weights", (path:gsub("/$", "")))
  return weight and tonumber(weight) or settings.default_weight
end

-- What only a group has, under the names that records have: `floor` is the lift target (fairness/shares.py), `level`
-- the peak, `owed` the peak that a requeued member has not been served up to yet.
local function as_group(share)
  share.floor, share.level, share.owed, share.members, share.ended, share.ended_path = 0, 0, 0, 0, -1, ""
  return share
end

-- A member starts at its group's lift target: what was below it had been forgotten.
local function member(path, group)
  local share = store.share(path)
  if not share then
    local counter = group.floor
    share = {
      path = path, group = group.path, weight = tree.weight_of(path),
      counter = counter, lifted = counter - store.booked(path), at = pool.calls,
      waiting = 0, running = 0, overrun = 0, place = "", first = 0,
      guess = (tree.recalls or pool.gather_until > 0) and counter or nil,
    }
    store.put_share(tree.is_group(share) and as_group(share) or share)
    group.members = group.members + 1
    store.touch(group)
  end
  return share
end

function tree.root()
  local root = store.share("")
  if not root then
    root = as_group({ path = "", counter = 0, lifted = 0, waiting = 0, running = 0 })
    store.put_share(root)
  end
  return root
end

-- The tenant or group at `path`, made where it does not exist.
function tree.ensure(path)
  local share = tree.root()
  for _, above in ipairs(tree.above(path)) do
    share = member(above, share)
  end
  return share.path == path and share or member(path, share)
end

-- The shares of a tenant, bottom up, the root last; made where they do not exist.
function tree.line(tenant)
  local line = { tree.root() }
  for _, path in ipairs(tree.above(tenant)) do
    table.insert(line, 1, member(path, line[1]))
  end
  table.insert(line, 1, member(tenant, line[1]))
  return line
end

-- The same where they exist already, from any member up to the root.
function tree.up(path)
  local line = { store.share(path) }
  while line[#line].path ~= "" do
    line[#line + 1] = store.share(line[#line].group)
  end
  return line
end

-- -- order ---------------------------------------------------------------------------------------------------------

-- Give a member that waits its place.
function tree.reorder(share)
  local key = P .. ":order:" .. share.group
  local quantum = settings.policy.quantum
  local place = string.format("%016d:%s", share.first, share.path)
  if share.place ~= place and share.place ~= "" then
    call("ZREM", key, share.place)
  end
  call("ZADD", key, quantum > 0 and math.floor(share.counter / quantum) or 0, place)
  share.place = place
  store.touch(share)
end

local function out_of_order(share)
  call("ZREM", P .. ":order:" .. share.group, share.place)
  share.place = ""
end

-- The member whose turn it is, or nil.
-- (A place whose member is missing, as after a key was lost, must not block the rest.)
function tree.least(group)
  local key = P .. ":order:" .. group.path
  local place = call("ZRANGE", key, 0, 0)[1]
  while place and not store.share(place:sub(18)) do
    call("ZREM", key, place)
    place = call("ZRANGE", key, 0, 0)[1]
  end
  return place and store.share(place:sub(18)) or nil
end

-- The counter of a member moves.
function tree.move(share, delta)
  share.counter = share.counter + delta
  store.touch(share)
  if share.waiting > 0 and share.group then
    tree.reorder(share)
  end
end

-- -- lift and oblivion ---------------------------------------------------------------------------------------------

-- The member whose request left the queue last, requeued ones aside; nil when it is forgotten.
function tree.last_left(group)
  if group.running > 0 then
    local top = call("ZREVRANGE", P .. ":running:" .. group.path, 0, 0, "WITHSCORES")
    if tonumber(top[2]) > group.ended then
      local ticket = store.ticket(top[1])
      for i, account in ipairs(ticket.accounts) do
        local above = ticket.accounts[i + 1]
        if (above and above.path or "") == group.path then
          return store.share(account.path)
        end
      end
    end
  end
  return group.ended >= 0 and store.share(group.ended_path) or nil
end

local function raise_lift_target(group, other)
  if other and other.counter > group.floor then
    group.floor = other.counter
    store.touch(group)
    return true
  end
end

local function forget(group)
  local key = P .. ":rest:" .. group.path
  for _, path in ipairs(call("ZRANGEBYSCORE", key, "-inf", group.floor)) do
    call("ZREM", key, path)
    local share = store.share(path)
    if share then
      tree.rest(share)
    end
  end
end

-- `share` is about to wait: raise its counter to the lift target. That first rises to the counter of the member whose
-- turn it is or, when nobody waits, of the one whose request left the queue last. It never falls.
-- (`Group.lift` in fairness/shares.py has an example.)
local function lift(group, share)
  local rose = raise_lift_target(group, tree.least(group) or tree.last_left(group))
  if share.counter < group.floor then
    share.lifted = share.lifted + group.floor - share.counter
    share.counter, share.at = group.floor, pool.calls
  end
  if rose then
    forget(group)
  end
end

-- A group without work: whichever member comes next is lifted to the one that left the queue last, so that lift is done
-- now. The group can be forgotten when no member is left to know. (`Group.forgettable` has an example.)
local function forgettable(group)
  if settings.policy.lifts and raise_lift_target(group, tree.last_left(group)) then
    forget(group)
  end
  return group.members == 0
end

-- A member without work is forgotten as soon as its counter is not above the lift target. (`Group.rest` has an example.)
function tree.rest(share)
  if share.waiting > 0 or share.running > 0 then
    return
  end
  if tree.is_group(share) and not forgettable(share) then
    return
  end
  local group = store.share(share.group)
  local key = P .. ":rest:" .. group.path
  if share.counter <= group.floor then
    call("ZREM", key, share.path)
    store.drop_share(share)
    group.members = group.members - 1
    store.touch(group)
  else
    call("ZADD", key, share.counter, share.path)
  end
end

-- Parents before their members.
function tree.by_depth(paths)
  table.sort(paths, function(a, b)
    return #a < #b or (#a == #b and a < b)
  end)
  return paths
end

-- All that replicas remember has been told: what nobody has work for is forgotten as usual.
function tree.settle_down()
  store.save_shares()
  local paths = tree.by_depth(call("HKEYS", P .. ":shares"))
  for i = #paths, 1, -1 do
    local share = store.share(paths[i])
    if share and share.path ~= "" then
      share.guess, share.recalled, share.told = nil, nil, nil
      store.touch(share)
      tree.rest(share)
    end
  end
end

-- -- the queue -----------------------------------------------------------------------------------------------------

-- The tenant's oldest ticket is now another.
local function look_at_head(tenant)
  local head = call("ZRANGE", P .. ":queue:" .. tenant.path, 0, 0, "WITHSCORES")
  tenant.first = tonumber(head[2] or 0)
end

local function begin_waiting(share, group, lifts)
  if tree.is_group(share) and (lifts or share.first == 0) then
    share.first = next_seq()
  end
  if lifts and settings.policy.lifts then
    lift(group, share)
  end
  tree.reorder(share)
end

-- A ticket waits, in `line`. `lifts(share)`: a member that begins to wait here is new to the queue.
function tree.enqueue(ticket, line, lifts)
  ticket.state = "waiting"
  call("ZADD", P .. ":queue:" .. ticket.tenant, ticket.seq, ticket.id)
  local tenant = line[1]
  tenant.first = tenant.waiting > 0 and math.min(tenant.first, ticket.seq) or ticket.seq
  for i = 1, #line - 1 do
    local share = line[i]
    share.waiting = share.waiting + 1
    store.touch(share)
    if share.waiting > 1 then
      tree.reorder(share)
    else
      begin_waiting(share, line[i + 1], lifts(share))
    end
  end
  line[#line].waiting = line[#line].waiting + 1
  store.touch(line[#line])
end

-- A ticket leaves the queue of its tenant; with `turn` because its turn came, which the groups above take with it.
function tree.dequeue(ticket, line, turn)
  call("ZREM", P .. ":queue:" .. ticket.tenant, ticket.id)
  look_at_head(line[1])
  for i = 1, #line - 1 do
    local share = line[i]
    if turn and tree.is_group(share) then
      share.first = next_seq()
    end
    share.waiting = share.waiting - 1
    if share.waiting == 0 then
      out_of_order(share)
    else
      tree.reorder(share)
    end
    store.touch(share)
  end
  line[#line].waiting = line[#line].waiting - 1
  store.touch(line[#line])
end
