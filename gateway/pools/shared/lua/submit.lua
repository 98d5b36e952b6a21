-- ["submit", id, tenant, n_in, max_tokens]   queue a ticket (tokens)
-- refuses with [id, reason, ...]:  too_large, tokens of the largest worker | pool_queue_full, waiting
--                                  tenant_queue_full, waiting | rate_limit, limit, ms until one more would be accepted
-- O(log n). A ticket that is known already changes nothing.

local WINDOW = 60000 -- ms, of the policy rpm:LIMIT

-- The sliding window of the policy rpm: nil, or the ms until one more would be accepted.
local function over_rate(id, tenant)
  local limit = settings.policy.rpm
  if limit == 0 then
    return nil
  end
  local key = P .. ":rate:" .. tenant
  call("ZREMRANGEBYSCORE", key, "-inf", now - WINDOW)
  if call("ZCARD", key) >= limit then
    return tonumber(call("ZRANGE", key, 0, 0, "WITHSCORES")[2]) + WINDOW - now
  end
  call("ZADD", key, now, id)
  call("PEXPIRE", key, WINDOW)
end

local function overall_largest()
  local largest = 0
  for _, worker in ipairs(pool.workers) do
    largest = math.max(largest, worker.tokens)
  end
  return largest
end

local function refusal(id, tenant, n_in)
  local limits = settings.limits
  local healthy_largest = room.largest()
  if n_in + 1 > healthy_largest then
    local reason = n_in + 1 > overall_largest() and "too_large" or "no_large_worker"
    return { id, reason, healthy_largest }
  end
  local waiting = tree.root().waiting
  if waiting >= limits.waiting then
    return { id, "pool_queue_full", waiting }
  end
  local share = store.share(tenant)
  local own = share and share.waiting or 0
  local bound = settings.tenant_limits and call("HGET", P .. ":limits", tenant)
  if own >= (tonumber(bound or nil) or limits.per_tenant) then
    return { id, "tenant_queue_full", own }
  end
  local wait = over_rate(id, tenant)
  if wait then
    return { id, "rate_limit", settings.policy.rpm, wait }
  end
end

local function always()
  return true
end

function op.submit(replica, id, tenant, n_in, max_tokens)
  if store.ticket(id) then
    return
  end
  local refused = refusal(id, tenant, n_in)
  if refused then
    out.refusals[#out.refusals + 1] = refused
    return
  end
  local ticket = {
    id = id, tenant = tenant, replica = replica, n_in = n_in, max = max_tokens, avoid = {}, seq = tree.next_seq(),
    cached = 0, produced = 0, predicted = 0, reserved = 0, worker = "", number = -1, accounts = {},
  }
  call("SADD", P .. ":of:" .. replica, id)
  store.put_ticket(ticket)
  out.queued[#out.queued + 1] = { id, ticket.seq }
  tree.enqueue(ticket, tree.line(tenant), always)
end
