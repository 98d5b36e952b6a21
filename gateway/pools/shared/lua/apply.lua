-- apply: one batch of a replica's operations, all or nothing, then picks until nothing fits.
--
-- keys[1]  "{namespace:pool}"
-- args[1]  JSON {"replica": id, "batch": n, "acked": the last batch that was answered, "seen": id of the last entry read from its stream or "", "ops": [[name, ...], ...]}
-- returns  {"ok", now ms, epoch, revision, waiting, replicas, gathering 0/1, hold ms, more 0/1, refusals, grants,
--           shares {{path, lifted, counter, lift target, number of this call}, ...}, queued {{id, seq}, ...}}
--          {"rejoin", now ms, "unknown" | "behind" | "silent" | "gathering"}: nothing was applied; the next batch must begin with "join"
-- A batch that was applied before changes nothing and returns what it returned then.

local function rejoin(reason)
  return { "rejoin", now, reason }
end

local function shares_told()
  local told = {}
  for path in pairs(store.changed_shares) do
    local share = store.share(path)
    if share then
      told[#told + 1] = { path, share.lifted, share.counter, share.floor or 0, pool.calls }
    end
  end
  return told
end

local function reply(more)
  local epoch = replicas.mine and replicas.mine.epoch or 0
  return {
    "ok", now, epoch, pool.revision, tree.root().waiting, replicas.here(), replicas.gathering() and 1 or 0, room.hold(), more and 1 or 0, out.refusals, out.grants, shares_told(), out.queued,
  }
end

local function run_all(request)
  for _, operation in ipairs(request.ops) do
    op[operation[1]](request.replica, unpack(operation, 2))
  end
end

local function finish(request)
  local more = false
  if not replicas.gathering() then
    more = pick.all(request.replica)
  end
  ledger.forgive()
  local answer = reply(more)
  if replicas.mine then
    replicas.remember(request.replica, request.batch, answer)
    if request.seen ~= "" then
      call("XTRIM", P .. ":grants:" .. request.replica, "MINID", request.seen)
    end
  end
  store.save()
  return answer
end

-- Why the batch cannot be applied, or nil.
local function must_join(request, joins)
  local mine = replicas.mine
  if joins then
    return mine and request.batch < mine.batch and "behind" or nil
  elseif not pool or not mine then
    return "unknown"
  elseif mine.batch ~= request.batch - 1 then
    return "behind"
  elseif replicas.was_silent() and call("ZCARD", P .. ":leases") > 1 then
    return "silent"
  elseif replicas.gathering() and not pool.present[request.replica] then
    return "gathering"
  end
end

local function apply(request)
  tree.recalls = false
  local joins = request.ops[1] and request.ops[1][1] == "join"
  replicas.recall(request.replica)
  local before = replicas.answer(request.replica, request.batch)
  if before then
    return before
  end
  local reason = must_join(request, joins)
  if reason then
    return rejoin(reason)
  end
  replicas.lost = request.acked > 0 and (not pool or (replicas.mine ~= nil and replicas.mine.batch < request.acked))
  pool = pool or configuration.new_pool()
  if replicas.mine and replicas.was_silent() then
    replicas.gather(call("ZCARD", P .. ":leases"))
  end
  if not joins then
    replicas.renew(request.replica)
  end
  pool.calls, pool.last_call = pool.calls + 1, now
  run_all(request)
  replicas.is_present(request.replica)
  replicas.reap(request.replica)
  return finish(request)
end

function entry.apply(keys, args)
  store.open(keys[1])
  return apply(cjson.decode(args[1]))
end
