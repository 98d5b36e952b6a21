-- ["charge", id, n_in, cached, produced]   what is known of a ticket that runs, as totals (tokens)
-- Charges what exceeds that which was charged before. O(log n). Of a ticket that does not run it changes nothing.

local function running(replica, id)
  local ticket = store.ticket(id)
  return ticket and ticket.replica == replica and ticket.state == "running" and ticket or nil
end

local function report(ticket, n_in, cached, produced)
  if n_in ~= ticket.n_in or cached ~= ticket.cached then
    ledger.correct(ticket, n_in, cached)
  end
  ledger.charge(ticket, produced)
end

function op.charge(replica, id, n_in, cached, produced)
  local ticket = running(replica, id)
  if ticket then
    report(ticket, n_in, cached, produced)
  end
end
