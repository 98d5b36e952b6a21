"""How fast a worker produces: what an answer costs that nobody saw.

An answer that is not streamed says in its usage, at the end, what it was. A client that leaves before that has had the
worker run for it all the same, so it pays for the time:

    tokens = pace * choices * seconds since it was sent,  at least 1, at most what it may produce (and has reserved)
    pace   = output tokens / seconds of the worker's answers that ended, both decayed by exp(-seconds / TAU_S)

Example: a worker's answers come at 40 tokens a second. A request with max_tokens 2,000 whose client leaves after 10 s
is charged its input and 400 tokens; one that leaves after 2 minutes 2,000, and not 4,800. A worker of which nothing is
known yet is taken to produce `ASSUMED` = 30 tokens a second, as if it had been seen for `ASSUMED_S` = 10 s: there it is
300 after 10 s, 2 after 80 ms, and 1 after 10 ms. So leaving early saves nothing that was worked for, and leaving late
costs nothing that was not asked for; what was predicted plays no part in it.

Seconds are what an answer weighs, and not each the same: ten answers of 2 ms say no more of a worker than 20 ms can.

Who sends many cheap answers must not make leaving cheap. So two kinds of answers tell nothing:
- Those shorter than `TELLING` = 64 tokens: most of their time is prompt and engine's queue. Thirty of one token and
  0.5 s would say 2 tokens a second of a worker that decodes 40. With 64 tokens each, and half a second before the
  first, they say 64 / (0.5 + 64 / 40) = 30 at the least, and 600 s of them, 18,000 tokens that are paid for, bring the
  pace two thirds of the way there.
- Those of several choices, of which one may go on long after the others: their usage tells the sum alone. Of 100
  choices 99 may end at once; 4,099 tokens in 100 s would then say 0.4 a second for each.
What remains: an answer whose prompt takes very long says less than the worker decodes. But its input is paid for.
And answers that come faster than the worker decodes (from a cache) make leaving dearer: ten of 64 tokens, paid for, by
640 / TAU_S, which is about one token a second.
"""

from __future__ import annotations

from math import exp
from typing import Final

ASSUMED: Final = 30.0
"""Tokens a second of one choice, where nothing is known."""
ASSUMED_S: Final = 10.0
"""Seconds of answers that the assumption weighs as much as."""
TAU_S: Final = 600.0
"""Seconds of answers, side by side or one after the other, after which an older answer weighs 1 / e."""
TELLING: Final = 64
"""Output tokens of the shortest answer that tells something."""


class Pace:
    def __init__(self) -> None:
        self._tokens = ASSUMED * ASSUMED_S
        self._seconds = ASSUMED_S

    def ended(self, produced: int, choices: int, seconds: float) -> None:
        """An answer of `choices` side by side took so long, its input included."""
        if produced < TELLING or choices != 1 or seconds <= 0:
            return
        keep = exp(-seconds / TAU_S)
        self._tokens = self._tokens * keep + produced
        self._seconds = self._seconds * keep + seconds

    def unseen(self, choices: int, seconds: float, most: int) -> int:
        """Output tokens of an answer that nobody saw the end of, `seconds` after it was sent."""
        tokens = int(self._tokens / self._seconds * choices * seconds)
        return min(most, max(1, tokens))
