"""Writes that are decided, but not yet in the log (pure).

While one transaction is under way, the next writes are decided on the state that it will leave behind, and go into the
transaction after it, all together. Nobody gets an answer that rests on a write before that is in the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from instep_schemas.registry.entries import Decision, Entry, decode_value, encode_value
from instep_schemas.registry.store import Store

GROUP: Final = 64
"""Writes in one transaction, at most."""


@dataclass(slots=True, eq=False)
class Pending:
    """One write on its way.

    Attributes:
        decide: decides it on a state.
        answer: resolved once the answer holds.
        outcome: what was decided, or why not; None until then.
        tries: how often its transaction found the log longer than it was read.
        alone: it goes into a transaction of its own.
    """

    decide: Callable[[Store], Decision]
    answer: asyncio.Future[Any]
    outcome: Decision | Exception | None = None
    tries: int = 0
    alone: bool = False

    @property
    def entries(self) -> Sequence[Entry]:
        """The records it adds."""
        return self.outcome.entries if isinstance(self.outcome, Decision) else ()

    def settle(self) -> None:
        """What was decided holds now."""
        if isinstance(self.outcome, Exception):
            self.fail(self.outcome)
        elif self.outcome is not None and not self.answer.done():
            self.answer.set_result(self.outcome.answer)

    def fail(self, exc: Exception) -> None:
        """It did not happen."""
        if not self.answer.done():
            self.answer.set_exception(exc)


@dataclass(slots=True)
class Queue:
    """Writes in the order they came, and the state that they lead to.

    Attributes:
        ahead: the log's state with everything that is under way or decided; None: not known, to be built anew.
        expected: the log's offset on which the next group must land for `ahead` to be true.
    """

    ahead: Store | None = None
    expected: int = 0
    _waiting: list[Pending] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, write: Pending) -> None:
        """Take in a write; decide it at once where the state is known."""
        self._waiting.append(write)
        if self.ahead is not None:
            self._decide(write)

    def group(self, store: Store, position: int) -> list[Pending]:
        """The writes that go next, decided; `store` is what the log holds up to `position`."""
        if self.ahead is None:
            self.ahead, self.expected = store.copy(), position
        size = next((n for n, write in enumerate(self._waiting[:GROUP]) if write.alone), len(self._waiting[:GROUP]))
        group, self._waiting = self._waiting[: size or 1], self._waiting[size or 1 :]
        for write in (*group, *self._waiting):
            if write.outcome is None:
                self._decide(write)
        return group

    def forget(self, group: Sequence[Pending] = ()) -> None:
        """Nothing decided holds any more; `group` comes again, before the others."""
        self.ahead = None
        self._waiting[:0] = group
        for write in self._waiting:
            write.outcome = None

    def clear(self) -> list[Pending]:
        """All writes, which are none any more."""
        self.ahead = None
        waiting, self._waiting = self._waiting, []
        return waiting

    def _decide(self, write: Pending) -> None:
        assert self.ahead is not None
        try:
            decision = write.decide(self.ahead)
            for entry in decision.entries:
                self.ahead.apply(entry.key, decode_value(encode_value(entry.value)))
            write.outcome = decision
        except Exception as exc:  # whatever it is, it is the answer to this one write
            write.outcome = exc
