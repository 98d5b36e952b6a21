-- quota: one more request of a tenant, if its limit in any window of time allows (fairness/limiter.py). It spans pools,
-- so it has a key of its own and not a pool's. Asked again about the same request it answers the same.
--
-- keys[1]  "{namespace:quota:tenant}", a sorted set of accepted requests by ms of the server
-- args     limit, ms of the window, id of the request
-- returns  {accepted 0/1, how many more would be accepted, ms until one more would be}

local entry = {}

local function milliseconds()
  local time = redis.call("TIME")
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function wait_of(key, window, now)
  local oldest = redis.call("ZRANGE", key, 0, 0, "WITHSCORES")[2]
  return oldest and tonumber(oldest) + window - now or 0
end

function entry.quota(keys, args)
  local key, limit, window, id = keys[1], tonumber(args[1]), tonumber(args[2]), args[3]
  local now = milliseconds()
  redis.call("ZREMRANGEBYSCORE", key, "-inf", now - window)
  local left = limit - redis.call("ZCARD", key)
  local known = redis.call("ZSCORE", key, id)
  if left <= 0 and not known then
    return { 0, 0, wait_of(key, window, now) }
  end
  if not known then
    redis.call("ZADD", key, now, id)
    redis.call("PEXPIRE", key, window)
    left = left - 1
  end
  return { 1, left, 0 }
end
