"""What must be true after chaos, and whether it is: by the clients, the engines' logs, the store and the gateways."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf
from typing import Any

import redis

from fairgate.fleet import POOL, Fleet
from fairgate.promises import Promise
from fairgate.stores import StoreServer
from fairness import MILLI, Weighted
from gateway.store.sources import machine
from loadgen.record import Ending, Exchange, LoadRecord
from loadgen.service_log import EngineRecord

COST = Weighted()
PREFIX = f"{{fairgate:{POOL}}}"
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
class StoreState:
    """What the store held in one moment. `look` as inspect.lua tells it; `books` of the replicas that have a lease, in
    thousandths; `keys` without their common prefix."""

    look: Mapping[str, Any]
    books: Mapping[str, Mapping[str, int]]
    tickets: int
    keys: frozenset[str]


def read_store(store: StoreServer) -> StoreState:
    """Raises redis.RedisError, also where there is no pool."""
    with store.client() as client:
        client.function_load(machine().source, replace=True)
        names = _leases(client)
        with client.pipeline(transaction=True) as pipe:
            pipe.fcall(machine().function("inspect"), 1, PREFIX)
            pipe.zrange(f"{PREFIX}:leases", 0, -1)
            pipe.hlen(f"{PREFIX}:tickets")
            pipe.keys(f"{PREFIX}:*")
            for name in names:
                pipe.hgetall(f"{PREFIX}:book:{name}")
            look, leases, tickets, keys, *books = pipe.execute()
    if look is None or set(leases) != set(names):
        raise redis.RedisError("the pool changed its members")
    found = {name: _numbers(book) for name, book in zip(names, books, strict=True)}
    return StoreState(json.loads(look), found, tickets, frozenset(key.removeprefix(f"{PREFIX}:") for key in keys))


def _leases(client: redis.Redis) -> list[str]:
    found: Any = client.zrange(f"{PREFIX}:leases", 0, -1)
    return list(found)


def _numbers(book: Mapping[str, str]) -> dict[str, int]:
    return {path: int(total) for path, total in book.items() if int(total)}


def books_of(store: StoreServer, names: Iterable[str]) -> dict[str, dict[str, int]]:
    """As the store has them, of replicas that live or died lately. Raises redis.RedisError."""
    return {name: _numbers(store.command("HGETALL", f"{PREFIX}:book:{name}")) for name in names}


def shares_without_sum(state: StoreState) -> list[str]:
    """Tenants whose counter is something else than what was lifted and what the books hold."""
    wrong = []
    for path, share in state.look["shares"].items():
        booked = sum(book.get(path, 0) for book in state.books.values())
        if path and int(share["lifted"]) + booked != int(share["counter"]):
            wrong.append(f"{path}: {share['lifted']} lifted + {booked} booked, counter {share['counter']}")
    return wrong


def standing_of(url: str) -> str:
    """How a gateway stands with the store; empty where it does not answer."""
    try:
        return str(_get(url, "/readyz")["pools"][POOL]["mode"])
    except (OSError, ValueError, KeyError):
        return ""


def name_of(url: str) -> str:
    """A gateway's id in the store. Raises OSError."""
    return str(_get(url, "/debug/book")[POOL]["replica"])


def own_book(url: str) -> tuple[str, dict[str, int]]:
    """A gateway's id and what it says that it has charged. Raises OSError."""
    own = _get(url, "/debug/book")[POOL]
    return str(own["replica"]), {path: total for path, total in own["charged"].items() if total}


def _get(url: str, path: str) -> Any:
    try:
        with urllib.request.urlopen(url + path, timeout=5) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return json.load(error)


def judge_chaos(
    fleet: Fleet,
    store: StoreServer,
    load: LoadRecord,
    deaths: Sequence[Death],
    started_at: float,
    forgiven_s: float,
    settle_s: float,
) -> list[Promise]:
    """All promises, after the load has drained. Waits for at most `settle_s` seconds for what is on its way."""
    rest = _at_rest(fleet, store, time.monotonic() + settle_s)
    engines = fleet.record()
    return [
        *judge_endings(load, deaths),
        judge_answers(engines),
        *rest,
        *(judge_death(death, deaths, load, engines, fleet, started_at, forgiven_s) for death in deaths),
        *(Promise(text) for text in peaks(engines)),
    ]


# -- by the clients ------------------------------------------------------------------------------------------------


def judge_endings(load: LoadRecord, deaths: Sequence[Death]) -> list[Promise]:
    """Every request that a surviving gateway accepted had one terminal outcome."""
    lost, wrong, codes = 0, [], Counter[str]()
    for exchange in load.exchanges:
        if _lost(exchange, load, deaths):
            lost += 1
            continue
        codes[_code(exchange)] += 1
        if not _ended_once(exchange):
            wrong.append(f"{exchange.request_id} ({_code(exchange)}, {_markers(exchange)})")
    outcomes = ", ".join(f"{count} {code}" for code, count in codes.most_common())
    text = f"{codes.total()} requests that surviving gateways accepted ended once each{_named(wrong)}: {outcomes}"
    return [
        Promise(text, not wrong),
        Promise(f"{lost} requests were with gateways that died, or came while they were away"),
    ]


def _lost(exchange: Exchange, load: LoadRecord, deaths: Sequence[Death]) -> bool:
    """It was with a gateway when that was killed, or found nobody there."""
    sent, ended = load.started_at + exchange.sent_s, load.started_at + exchange.end_s
    for death in deaths:
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
    status = "" if exchange.status is None else f"{exchange.status} "
    return "finished" if exchange.ending is Ending.FINISHED else f"{status}{exchange.code}"


def _markers(exchange: Exchange) -> str:
    return f"{exchange.done_markers} [DONE], {exchange.error_events} errors, {exchange.output_tokens} tokens"


def _named(wrong: Sequence[str]) -> str:
    return f"; {len(wrong)} did not: {', '.join(wrong[:3])}" if wrong else ""


# -- by the engines ------------------------------------------------------------------------------------------------


def judge_answers(engines: EngineRecord) -> Promise:
    """No request of a client was served to its end twice."""
    requests = engines.requests()
    twice = [name for name, work in requests.items() if work.ends > 1]
    return Promise(
        f"{len(requests)} requests reached engines, none was served to its end twice{_named(twice)}", not twice
    )


def judge_death(
    death: Death,
    deaths: Sequence[Death],
    load: LoadRecord,
    engines: EngineRecord,
    fleet: Fleet,
    started_at: float,
    forgiven_s: float,
) -> Promise:
    """Its book in the store lacks no more than the output of its last `forgiven_s` seconds."""
    born = max((other.at for other in deaths if other.url == death.url and other.at < death.at), default=started_at)
    over, running = _of_gateway(death, born, load)
    runs = _last_runs(engines, death.at)
    open_runs = [runs[exchange.request_id] for exchange in running if exchange.request_id in runs]
    served = sum(COST.service(e.input_tokens, e.output_tokens) for e in over if e.status == 200)
    served += sum(COST.service(*run) for run in open_runs)
    charged = sum(total * fleet.plan.weights[path] / MILLI for path, total in death.book.items())
    tokens = ceil(forgiven_s / fleet.plan.step_s) + 1
    allowed = len(open_runs) * COST.service(0, tokens)
    text = (
        f"the death of {death.name} cost {served - charged:,.0f} of {served:,.0f} service units, with "
        f"{len(open_runs)} requests running (at most {allowed:,.0f}: {tokens} tokens of each)"
    )
    rounding = 0.001 * (len(over) + len(running)) * max(fleet.plan.weights.values())
    return Promise(text, served - charged <= allowed + rounding)


def _of_gateway(death: Death, born: float, load: LoadRecord) -> tuple[list[Exchange], list[Exchange]]:
    """What this process had: what was over when it died, and what was not."""
    over: list[Exchange] = []
    running: list[Exchange] = []
    for exchange in load.exchanges:
        sent, ended = load.started_at + exchange.sent_s, load.started_at + exchange.end_s
        if exchange.gateway == death.url and born < sent <= death.at:
            (over if ended < death.at else running).append(exchange)
    return over, running


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


def _at_rest(fleet: Fleet, store: StoreServer, deadline: float) -> list[Promise]:
    """As soon as all is as it should be; else as it is at the deadline."""
    while True:
        promises = _judge_rest(fleet, store)
        if all(promise.kept for promise in promises) or time.monotonic() > deadline:
            return promises
        time.sleep(0.1)


def _judge_rest(fleet: Fleet, store: StoreServer) -> list[Promise]:
    try:
        state = read_store(store)
        own = dict(own_book(url) for url in fleet.urls)
    except (redis.RedisError, OSError) as error:
        return [Promise(f"store and gateways answer: {error}", False)]
    return [
        _shared(fleet.urls, state),
        _room(state),
        _tickets(state),
        _books(own, state),
        Promise(
            f"every counter is its lifts plus its books{_named(shares_without_sum(state))}",
            not shares_without_sum(state),
        ),
    ]


def _shared(urls: Sequence[str], state: StoreState) -> Promise:
    modes = [standing_of(url) for url in urls]
    text = f"gateways: {', '.join(modes)}; the store knows {len(state.books)} of {len(urls)}"
    return Promise(text, set(modes) == {"shared"} and len(state.books) == len(urls))


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
