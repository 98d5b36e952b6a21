-- What every function begins with: the pool's records, read once and written once.
--
-- A call reads the records it needs into tables, changes those, and `save` writes what changed at its end. Only the
-- sorted sets, which are looked into between changes, are kept up to date at once.
--
-- All keys of a pool begin with its hash tag, "{namespace:pool}". Counters and charges are integers in thousandths of a
-- service unit / weight, times are milliseconds of the server.

local P, call, pack, unpack_record -- of this call; a library must not touch them while it is loaded
local store = {}
local pool -- the record at :pool, nil before the first join
local settings -- the configuration in force, as the pool uses it
local read_settings = {} -- prefix -> {stamp, settings}: decoded once a revision, not once a call
local now -- ms
local entry = {} -- what the library registers: name -> function(keys, args)
local replicas -- the leases, see reap.lua
local op = {} -- operation name -> function(replica, arguments...)
local out -- what the calling replica is told: refusals, grants, places in the queue

-- Nothing has been read or changed yet.
function store.begin()
  store.shares, store.tickets, store.changed_shares, store.changed_tickets, store.books = {}, {}, {}, {}, {}
end

function store.open(prefix)
  P, call, pack, unpack_record = prefix, redis.call, cmsgpack.pack, cmsgpack.unpack
  store.begin()
  out = { refusals = {}, grants = {}, queued = {} }
  local time = call("TIME")
  now = time[1] * 1000 + math.floor(time[2] / 1000)
  local record = call("GET", P .. ":pool")
  pool = record and unpack_record(record) or nil
  settings = pool and store.settings() or nil
end

-- Those that the pool was last given; `pool.configured` names that.
function store.settings()
  local known = read_settings[P]
  if not known or known.stamp ~= pool.configured then
    known = { stamp = pool.configured, settings = unpack_record(call("GET", P .. ":settings")) }
    read_settings[P] = known
  end
  return known.settings
end

-- A ticket, or nil.
function store.ticket(id)
  local ticket = store.tickets[id]
  if ticket == nil then
    local record = call("HGET", P .. ":tickets", id)
    ticket = record and unpack_record(record) or false
    store.tickets[id] = ticket
  end
  return ticket or nil
end

function store.put_ticket(ticket)
  store.tickets[ticket.id] = ticket
  store.changed_tickets[ticket.id] = true
end

function store.drop_ticket(ticket)
  store.tickets[ticket.id] = false
  store.changed_tickets[ticket.id] = true
  call("SREM", P .. ":of:" .. ticket.replica, ticket.id)
end

-- A tenant or a group by its path, or nil. A group's path ends in "/", the root's is "".
function store.share(path)
  local share = store.shares[path]
  if share == nil then
    local record = call("HGET", P .. ":shares", path)
    share = record and unpack_record(record) or false
    store.shares[path] = share
  end
  return share or nil
end

function store.put_share(share)
  store.shares[share.path] = share
  store.changed_shares[share.path] = true
end

function store.touch(share)
  store.changed_shares[share.path] = true
end

function store.drop_share(share)
  store.shares[share.path] = false
  store.changed_shares[share.path] = true
end

-- `delta` more has been charged to `path` for tickets of `replica`.
function store.book(replica, path, delta)
  local book = store.books[replica]
  if not book then
    book = {}
    store.books[replica] = book
  end
  book[path] = (book[path] or 0) + delta
end

-- What the tickets of all replicas that are here have been charged at `path`.
function store.booked(path)
  local total = 0
  for _, replica in ipairs(call("ZRANGE", P .. ":leases", 0, -1)) do
    local pending = store.books[replica] and store.books[replica][path] or 0
    total = total + pending + tonumber(call("HGET", P .. ":book:" .. replica, path) or 0)
  end
  return total
end

function store.save_books()
  for replica, book in pairs(store.books) do
    for path, delta in pairs(book) do
      if delta ~= 0 then
        call("HINCRBY", P .. ":book:" .. replica, path, delta)
      end
    end
  end
  store.books = {}
end

local function save_records(key, changed, records)
  local fields = {}
  for name in pairs(changed) do
    local record = records[name]
    if record then
      fields[#fields + 1] = name
      fields[#fields + 1] = pack(record)
      if #fields >= 500 then
        call("HSET", key, unpack(fields))
        fields = {}
      end
    else
      call("HDEL", key, name)
    end
  end
  if #fields > 0 then
    call("HSET", key, unpack(fields))
  end
end

function store.save_shares()
  save_records(P .. ":shares", store.changed_shares, store.shares)
end

function store.save()
  store.save_books()
  store.save_shares()
  save_records(P .. ":tickets", store.changed_tickets, store.tickets)
  call("SET", P .. ":pool", pack(pool))
end
