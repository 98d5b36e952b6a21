-- h(n_in, n_out): the service that a request receives, in the formulas of fairness/cost.py, term for term, so that the
-- same floating point operations give the same result.

local cost = {}

function cost.weighted(c, n_in, n_out, cached)
  return c.input * (n_in - cached) + c.cached_input * cached + c.output * n_out
end

local function interpolate(points, x)
  local last = 1
  while last < #points - 1 and points[last + 1][1] <= x do
    last = last + 1
  end
  local x0, y0, x1, y1 = points[last][1], points[last][2], points[last + 1][1], points[last + 1][2]
  return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
end

function cost.piecewise(c, n_in, n_out, cached)
  return interpolate(c.input, n_in - (1 - c.cached) * cached) + interpolate(c.output, n_out)
end

function cost.profiled(c, n_in, n_out, cached)
  local paid = n_in - (1 - c.cached) * cached
  return c.a * paid + c.b * n_out + c.c * paid * n_out + c.d * n_out * n_out + c.e
end

function cost.service(n_in, n_out, cached)
  if settings.policy.per_request then
    return 1
  end
  local c = settings.cost
  return cost[c.kind](c, n_in, n_out, cached)
end

-- Service over weight in thousandths, the cumulative value rounded once.
function cost.milli(service, weight)
  return math.floor(service * 1000 / weight + 0.5)
end
