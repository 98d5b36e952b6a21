"""How fast a worker produces: what an answer costs that nobody saw.

An answer that is not streamed says in its usage, at the end, what it was. A client that leaves before that has had the
worker run for it all the same, so it pays for the time:

    tokens = seconds since it was sent * choices * (tokens a second of one choice, of answers that ended),  at most
             what it may produce

Example: a worker's answers come at 40 tokens a second. A request with max_tokens 2,000 whose client leaves after 10 s
is charged its input and 400 tokens; one that leaves after 2 minutes 2,000, and not 4,800. Before a worker has finished
anything its pace is not known, and what was predicted stays charged. So leaving early saves nothing that was worked
for, and leaving late costs nothing that was not asked for.
"""

from __future__ import annotations

NEW = 0.1
"""Weight of the newest answer in the mean."""


class Pace:
    """An exponentially weighted mean over answers that ended."""

    def __init__(self) -> None:
        self._tokens_per_s = 0.0

    def ended(self, produced: int, choices: int, seconds: float) -> None:
        """An answer of `choices` side by side took so long, its input included."""
        if produced <= 0 or choices <= 0 or seconds <= 0:
            return
        seen = produced / choices / seconds
        self._tokens_per_s += (seen - self._tokens_per_s) * (NEW if self._tokens_per_s else 1.0)

    def unseen(self, choices: int, seconds: float, most: int) -> int | None:
        """Output tokens of an answer that nobody saw the end of; None where the pace is not known."""
        if not self._tokens_per_s:
            return None
        return min(most, int(self._tokens_per_s * choices * max(0.0, seconds)))
