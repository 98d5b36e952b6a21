-- ["requeue", id, [worker, ...]]   undo the dispatch of a ticket that its engine did not serve: it waits again in its
-- old place, without a lift, and keeps away from the workers named where it can
-- O(log n). Of a ticket that does not run it changes nothing.

local function never()
  return false
end

function op.requeue(replica, id, avoid)
  local ticket = running(replica, id)
  if not ticket then
    return
  end
  ledger.undo(ticket)
  for _, worker in ipairs(avoid) do
    ticket.avoid[worker] = true
  end
  store.put_ticket(ticket)
  tree.enqueue(ticket, tree.up(ticket.tenant), never)
end
