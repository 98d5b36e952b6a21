-- The configuration of a pool: the highest revision that any replica has joined with is in force.
--
-- settings  JSON {"revision", "digest", "policy": {"name", "lifts", "tree", "quantum" (thousandths of service / weight,
--           0: all counters are equal), "rpm", "per_request"}, "cost": {"kind", ...}, "predict": {"kind", "k", "q"},
--           "limits": {"waiting", "per_tenant", "tenants": {id: n}}, "lease_ms", "weights": {path: w},
--           "default_weight", "workers": [{"id", "slots", "tokens"}], ...}; kept as it came at :configuration

local configuration = {}

local function put_hash(key, values)
  call("DEL", key)
  for name, value in pairs(values) do
    call("HSET", key, name, string.format("%.17g", value))
  end
end

-- Shares that exist are charged at the new weight from their next dispatch on, and stand in the new policy's order.
local function reweigh()
  store.save_shares()
  for _, path in ipairs(call("HKEYS", P .. ":shares")) do
    local share = store.share(path)
    if path ~= "" then
      share.weight = tree.weight_of(path)
      store.touch(share)
      if share.waiting > 0 then
        tree.reorder(share)
      end
    end
  end
end

-- Workers that are named still keep what they run and what is known of them; others end when what they run has ended.
local function set_workers(named)
  local workers = {}
  for i, w in ipairs(named) do
    workers[i] = room.worker(w.id) or room.new_worker(w.id, w.slots, w.tokens)
    room.name(workers[i], w.slots, w.tokens)
    workers[i].named = true
  end
  for _, worker in ipairs(pool.workers) do
    if not worker.named and worker.running > 0 then
      worker.healthy_until = 0
      workers[#workers + 1] = worker
    end
  end
  for _, worker in ipairs(workers) do
    worker.removed, worker.named = not worker.named or nil, nil
  end
  pool.workers = workers
end

local function least(weights, default)
  for _, weight in pairs(weights) do
    default = math.min(default, weight)
  end
  return default
end

-- With another shape of the tree nothing that waits or runs is in its place: the pool forgets, and gathers anew from
-- what its replicas tell.
local function forget_all()
  local here = call("ZCARD", P .. ":leases")
  for _, path in ipairs(call("HKEYS", P .. ":shares")) do
    call("DEL", P .. ":order:" .. path, P .. ":queue:" .. path, P .. ":running:" .. path, P .. ":rest:" .. path)
  end
  for _, id in ipairs(call("ZRANGE", P .. ":leases", 0, -1)) do
    call("DEL", P .. ":of:" .. id, P .. ":book:" .. id, P .. ":grants:" .. id)
  end
  call("DEL", P .. ":tickets", P .. ":shares", P .. ":leases", P .. ":replicas", P .. ":answers")
  for _, worker in ipairs(pool.workers) do
    worker.running, worker.reserved = 0, 0
  end
  local fresh = configuration.new_pool()
  for _, name in ipairs({ "workers", "seq", "number", "epochs", "calls", "last_call" }) do
    fresh[name] = pool[name]
  end
  pool = fresh
  store.begin()
  replicas.gather(here + (replicas.mine and 0 or 1))
  replicas.mine = nil
end

function configuration.adopt(text, given)
  if settings and settings.policy.tree ~= given.policy.tree then
    forget_all()
  end
  settings = {
    policy = given.policy, cost = given.cost, predict = given.predict, lease_ms = given.lease_ms,
    limits = { waiting = given.limits.waiting, per_tenant = given.limits.per_tenant },
    tenant_limits = next(given.limits.tenants) ~= nil, default_weight = given.default_weight,
  }
  pool.revision, pool.digest = given.revision, given.digest
  pool.configured = now .. ":" .. given.revision .. ":" .. given.digest
  read_settings[P] = nil
  pool.least_weight = math.min(pool.least_weight or math.huge, least(given.weights, given.default_weight))
  call("SET", P .. ":settings", pack(settings))
  call("SET", P .. ":configuration", text)
  put_hash(P .. ":weights", given.weights)
  put_hash(P .. ":limits", given.limits.tenants)
  set_workers(given.workers)
  reweigh()
end

-- A pool that nothing is known of.
function configuration.new_pool()
  return {
    seq = 0, number = 0, epochs = 0, calls = 0, revision = -1, digest = "", reap_at = 0, workers = {},
    held = 0, most_held = 0, largest = 0, overrun = 0, most_running = 0, input_refunded = false,
    gather_until = 0, expected = 0, present = {}, owing = {},
  }
end
