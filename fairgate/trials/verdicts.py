"""What must be true after chaos, and whether it is: by the clients, the engines' logs, the store and the gateways."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf

import redis

from fairgate.promises import Promise
from fairgate.topology.stores import StoreServer
from fairgate.trials.inspection import StoreState, own_book, read_store, shares_without_sum, standing_of
from fairness import MILLI, Weighted
from fairness.shares import milli
from loadgen.client.record import Ending, Exchange, LoadRecord
from loadgen.judge.engines import EngineRecord

COST = Weighted()
CUT_BY_ENGINE = "cut by upstream_"
TEMPORARY = ("of", "queue", "order", "running")  # keys that live only as long as tickets do


@dataclass
class Death:
    """A gateway that was killed at `at` (Unix time): its address, its name in the store, its book there, and when a new
    one served in its place."""

    url: str
    name: str
    at: float
    book: Mapping[str, int]
    back_at: float = inf


@dataclass(frozen=True)
class Evidence:
    """What clients and engines saw of a run, and which gateways died. Times are Unix time."""

    load: LoadRecord
    engines: EngineRecord
    deaths: Sequence[Death]
    weights: Mapping[str, float]

    def sent(self, exchange: Exchange) -> float:
        return self.load.started_at + exchange.sent_s

    def ended(self, exchange: Exchange) -> float:
        return self.load.started_at + exchange.end_s

    def of_process(self, url: str, until: float = inf) -> list[Exchange]:
        """What came to the gateway process that served there at `until`, up to then."""
        born = max((death.at for death in self.deaths if death.url == url and death.at < until), default=-inf)
        return [one for one in self.load.exchanges if one.gateway == url and born < self.sent(one) <= until]

    def bill(self, exchanges: Iterable[Exchange]) -> Counter[str]:
        """What they owe, in thousandths by tenant: what their clients received, where an answer had begun."""
        owed: Counter[str] = Counter()
        for one in exchanges:
            if one.status == 200:
                owed[one.tenant] += milli(COST.service(one.input_tokens, one.output_tokens), self.weights[one.tenant])
        return owed


def judge_requests(seen: Evidence) -> list[Promise]:
    """That each ended once, and was served once."""
    return [*judge_endings(seen), judge_answers(seen.engines)]


def judge_charges(
    seen: Evidence, books: Mapping[str, Mapping[str, int]], forgiven_s: float, step_s: float
) -> list[Promise]:
    """That gateways that live charged what was served, and those that died nearly so. `books` by address; the others as
    in `judge_death`."""
    return [
        judge_bills(seen, books),
        *(judge_death(death, seen, forgiven_s, step_s) for death in seen.deaths),
        *(Promise(text) for text in peaks(seen.engines)),
    ]


# -- by the clients ------------------------------------------------------------------------------------------------


def judge_endings(seen: Evidence) -> list[Promise]:
    """Every request that a surviving gateway accepted had one terminal outcome."""
    lost, wrong, codes = 0, [], Counter[str]()
    for exchange in seen.load.exchanges:
        if _lost(exchange, seen):
            lost += 1
            continue
        codes[_code(exchange)] += 1
        if not _ended_once(exchange):
            wrong.append(f"{exchange.request_id} ({_code(exchange)}, {_markers(exchange)})")
    outcomes = ", ".join(f"{count} {code}" for code, count in codes.most_common())
    text = f"{codes.total()} requests that surviving gateways accepted ended once each{_named(wrong)}: {outcomes}"
    other = [code for code in codes if code != "finished" and not code.startswith(CUT_BY_ENGINE)]
    return [
        Promise(text, not wrong),
        Promise(f"nothing but streams of an engine that died was cut{_named(other)}", not other),
        Promise(f"{lost} requests were with gateways that died, or came while they were away"),
    ]


def _lost(exchange: Exchange, seen: Evidence) -> bool:
    """It was with a gateway when that was killed, or found nobody there."""
    sent, ended = seen.sent(exchange), seen.ended(exchange)
    for death in seen.deaths:
        with_it = sent <= death.at <= ended
        nobody = death.at <= sent <= death.back_at and exchange.status is None
        if exchange.gateway == death.url and (with_it or nobody):
            return True
    return False


def _ended_once(exchange: Exchange) -> bool:
    if exchange.status is None or exchange.ending is Ending.ABORTED:
        return False
    if exchange.status != 200:
        return exchange.code != "unreadable_error"
    whole = exchange.ending is not Ending.FINISHED or exchange.output_tokens == exchange.wanted_output_tokens
    return exchange.done_markers + exchange.error_events == 1 and whole


def _code(exchange: Exchange) -> str:
    if exchange.ending is Ending.FINISHED:
        return "finished"
    if exchange.status == 200:
        return f"cut by {exchange.code}"
    return exchange.code if exchange.status is None else f"HTTP {exchange.status} {exchange.code}"


def _markers(exchange: Exchange) -> str:
    return f"{exchange.done_markers} [DONE], {exchange.error_events} errors, {exchange.output_tokens} tokens"


def _named(wrong: Sequence[str]) -> str:
    """The exceptions to what was just said."""
    return f"; but {len(wrong)}: {', '.join(wrong[:3])}" if wrong else ""


# -- by the engines ------------------------------------------------------------------------------------------------


def judge_answers(engines: EngineRecord) -> Promise:
    """No request of a client was served to its end twice."""
    requests = engines.requests()
    twice = [name for name, work in requests.items() if work.ends > 1]
    return Promise(
        f"{len(requests)} requests reached engines, none was served to its end twice{_named(twice)}", not twice
    )


def judge_bills(seen: Evidence, books: Mapping[str, Mapping[str, int]]) -> Promise:
    """Every gateway that lives has charged what its clients received, to the unit. `books` by address."""
    wrong = []
    for url, book in books.items():
        owed = seen.bill(seen.of_process(url))
        off = {path: book.get(path, 0) - owed[path] for path in {*book, *owed} if book.get(path, 0) != owed[path]}
        wrong += [f"{url} {path}: off by {by}" for path, by in off.items()]
    return Promise(f"the gateways charged what clients received, to the unit{_named(wrong)}", not wrong)


def judge_death(death: Death, seen: Evidence, forgiven_s: float, step_s: float) -> Promise:
    """Its book in the store lacks of what the engines served no more than the output of the last `forgiven_s` seconds,
    at a token in `step_s` for each request that ran then. What it may have too much is the input of requests that an
    engine had not begun."""
    tokens = ceil(forgiven_s / step_s) + 1
    own = seen.of_process(death.url, death.at)
    over = [one for one in own if seen.ended(one) < death.at]
    running = [one for one in own if seen.ended(one) >= death.at]
    runs = _last_runs(seen.engines, death.at)
    begun = [runs[one.request_id] for one in running if one.request_id in runs]
    served = sum(owed * seen.weights[tenant] / MILLI for tenant, owed in seen.bill(over).items())
    served += sum(COST.service(*run) for run in begun)
    cost = served - sum(total * seen.weights[path] / MILLI for path, total in death.book.items())
    ran = len(begun) + sum(seen.ended(one) >= death.at - forgiven_s for one in over)
    most = ran * COST.service(0, tokens)
    text = (
        f"the death of {death.name} cost {cost:,.0f} of {served:,.0f} service units, with {ran} requests running "
        f"lately (at most {most:,.0f}: {tokens} tokens of each) and {len(running) - len(begun)} not begun"
    )
    rounding = (len(own) + 1) / MILLI * max(seen.weights.values())
    least = -sum(one.wanted_input_tokens for one in running if one.request_id not in runs) - most
    return Promise(text, least - rounding <= cost <= most + rounding)


def _last_runs(engines: EngineRecord, until: float) -> dict[str, tuple[int, int]]:
    """By the client's request id: input and output tokens of the last run on an engine, as far as it got by `until`."""
    runs: dict[str, tuple[int, int]] = {}
    for line in engines.served:
        name = line.id.partition("-")[0]
        if line.t > until:
            break
        if line.event == "input":
            runs[name] = (line.tokens, 0)
        elif line.event == "output":
            n_in, n_out = runs[name]
            runs[name] = (n_in, n_out + line.tokens)
    return runs


def peaks(engines: EngineRecord) -> list[str]:
    """The most each engine had at once; while the store is away this may pass its slots."""
    return [
        f"{path.name.partition('.')[0]} had at most {engine.peaks.in_flight} requests at once, for {engine.slots} slots"
        for path, engine in engines.engines.items()
    ]


# -- by the store and the gateways -----------------------------------------------------------------------------------


def wait_for_rest(urls: Sequence[str], store: StoreServer, settle_s: float) -> list[Promise]:
    """What is on its way when the load has drained may take `settle_s` seconds. As soon as all is as it should be; else
    as it is then. `urls` of the gateways."""
    deadline = time.monotonic() + settle_s
    while True:
        promises = _judge_rest(urls, store)
        if all(promise.kept for promise in promises) or time.monotonic() > deadline:
            return promises
        time.sleep(0.1)


def _judge_rest(urls: Sequence[str], store: StoreServer) -> list[Promise]:
    try:
        own = dict(own_book(url) for url in urls)
        return judge_rest(read_store(store), own, [standing_of(url) for url in urls])
    except (redis.RedisError, OSError) as error:
        return [Promise(f"store and gateways answer; but {error}", False)]


def judge_rest(state: StoreState, own: Mapping[str, Mapping[str, int]], modes: Sequence[str]) -> list[Promise]:
    """Nothing is left of any request, and all agree on who was charged what. `own` are the gateways' books by name."""
    wrong = shares_without_sum(state)
    return [
        _shared(modes, state),
        _room(state),
        _tickets(state),
        _books(own, state),
        Promise(f"every counter is its lifts plus its books{_named(wrong)}", not wrong),
    ]


def _shared(modes: Sequence[str], state: StoreState) -> Promise:
    text = f"gateways: {', '.join(modes)}; the store knows {len(state.books)} of {len(modes)}"
    return Promise(text, set(modes) == {"shared"} and len(state.books) == len(modes))


def _room(state: StoreState) -> Promise:
    look = state.look
    rooms = [(worker["running"], worker["reserved"]) for worker in look["workers"]]
    text = f"room is free: {rooms} running and reserved, {look['waiting']} waiting, {look['held']} tokens held"
    return Promise(text, not any(map(any, rooms)) and not (look["waiting"] or look["running"] or look["held"]))


def _tickets(state: StoreState) -> Promise:
    left = sorted(key for key in state.keys if key.partition(":")[0] in TEMPORARY)
    return Promise(f"no ticket is left: {state.tickets} tickets{_named(left)}", not state.tickets and not left)


def _books(own: Mapping[str, Mapping[str, int]], state: StoreState) -> Promise:
    wrong = [
        f"{name} {path}: {state.books.get(name, {}).get(path, 0)} in the store, {book.get(path, 0)} by itself"
        for name, book in own.items()
        for path in {*book, *state.books.get(name, {})}
        if state.books.get(name, {}).get(path, 0) != book.get(path, 0)
    ]
    total = sum(sum(book.values()) for book in own.values())
    text = f"the store's books are the {len(own)} gateways' own, to the unit ({total:,} thousandths){_named(wrong)}"
    return Promise(text, not wrong and total > 0)
