-- ["cancel", id, n_in, cached, produced]   a ticket leaves; one that runs stays charged for what was seen (tokens)
-- ["undo", id]                             a ticket leaves as if it had never been dispatched
-- O(log n). Of a ticket that is not known they change nothing.

local function leave_queue(ticket)
  local line = tree.up(ticket.tenant)
  tree.dequeue(ticket, line, false)
  store.drop_ticket(ticket)
  for i = 1, #line - 1 do
    tree.rest(line[i])
  end
end

function op.cancel(replica, id, n_in, cached, produced)
  local ticket = store.ticket(id)
  if not ticket or ticket.replica ~= replica then
    return
  end
  if ticket.state == "waiting" then
    leave_queue(ticket)
  else
    report(ticket, n_in, cached, produced)
    ledger.close(ticket)
  end
end

function op.undo(replica, id)
  op.requeue(replica, id, {})
  local ticket = store.ticket(id)
  if ticket and ticket.replica == replica then
    leave_queue(ticket)
  end
end
