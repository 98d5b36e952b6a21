-- ["worker", id, report]   what a replica sees of a worker: {"healthy": bool, "ttl_ms": ms}, {"slots": n, "tokens": n},
--                          {"overflowed": true} (it refused a request for want of room), {"waiting": n} (inside it)
-- O(workers).

function op.worker(_, id, report_of_it)
  room.report(id, report_of_it)
end
