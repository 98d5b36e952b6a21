-- ["finish", id, n_in, cached, produced]   a ticket was served to its end (tokens, totals)
-- Settles it, and gives its room back in the same step. O(log n). Of a ticket that does not run it changes nothing.

function op.finish(replica, id, n_in, cached, produced)
  local ticket = running(replica, id)
  if ticket then
    report(ticket, n_in, cached, produced)
    room.served(ticket.worker)
    ledger.close(ticket)
    predict.observe(ticket)
  end
end
