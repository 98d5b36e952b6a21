-- inspect: the state of a pool, for people, metrics and tests. Changes nothing. O(members that are known, 1,000 at most).
--
-- keys[1]  "{namespace:pool}"
-- args[1]  "groups": of the members only the groups; absent: tenants too
-- returns  JSON, or nil where there is no pool. Counters in thousandths of a service unit / weight.

local MOST = 1000

-- The largest difference of counters of siblings that wait: the two ends of their order.
local function gap_of(group)
  local key = P .. ":order:" .. group.path
  local first, last = call("ZRANGE", key, 0, 0)[1], call("ZRANGE", key, -1, -1)[1]
  if not first or settings.policy.quantum ~= 1 then
    return 0
  end
  return store.share(last:sub(18)).counter - store.share(first:sub(18)).counter
end

-- How far the least sibling that waits is behind the peak that others had reached when a ticket was requeued.
local function owed_by(group)
  local least = tree.least(group)
  return least and math.max(0, group.owed - least.counter) or 0
end

local function shown(share)
  return {
    counter = string.format("%.0f", share.counter), lifted = string.format("%.0f", share.lifted or 0),
    floor = string.format("%.0f", share.floor or 0), waiting = share.waiting, running = share.running,
    weight = share.weight or 1,
  }
end

local function workers()
  local found = {}
  for i, w in ipairs(pool.workers) do
    found[i] = {
      id = w.id, slots = w.hold_until > now and 0 or w.limit, tokens = w.tokens, running = w.running,
      reserved = w.reserved, healthy = w.healthy_until > now,
    }
  end
  return found
end

-- The root, and of the others those whose path is like `pattern`.
local function shares(pattern)
  local found = { tree.root() }
  local records = call("HSCAN", P .. ":shares", 0, "COUNT", MOST, "MATCH", pattern)[2]
  for i = 1, #records, 2 do
    if records[i] ~= "" then
      found[#found + 1] = unpack_record(records[i + 1])
    end
  end
  return found
end

function entry.inspect(keys, args)
  store.open(keys[1])
  if not pool then
    return nil
  end
  local root = tree.root()
  local found = {
    waiting = root.waiting, running = root.running, gap = 0, owed = 0, held = pool.held, most_held = pool.most_held,
    overrun = pool.overrun, largest = pool.largest, most_running = pool.most_running,
    input_refunded = pool.input_refunded, least_weight = pool.least_weight, revision = pool.revision,
    digest = pool.digest, workers = workers(), shares = {},
  }
  for _, share in ipairs(shares(args[1] == "groups" and "*/" or "*")) do
    found.shares[share.path] = shown(share)
    if tree.is_group(share) then
      found.gap = math.max(found.gap, gap_of(share))
      found.owed = math.max(found.owed, owed_by(share))
    end
  end
  return cjson.encode(found)
end
