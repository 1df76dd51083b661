"""One batch of documents, from the decision to the last outcome: calls, halves, back-off, reading back, giving up."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from instep.errors import InstepError
from instep.failpoints import hit
from instep.flowfile import Flow
from instep.protocols import Document, Key, Outcome, Rejected, Retry, Sink, Throttled, Unchanged, Unknown, Written
from instep.telemetry import LAG, OUTCOMES
from instep_streams.delivery.budget import Budget
from instep_streams.delivery.conflate import Newest, Waiting
from instep_streams.delivery.decide import NOTHING, Applied, Entry, Kind, Next, decide, superseded
from instep_streams.delivery.ledger import Ledger
from instep_streams.delivery.transform import CODE, Transform, Untransformable, transformed

log = logging.getLogger("instep.delivery")

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
SUSPICION: Final = 5
"""Documents given up in a row after which the target counts as away, although it can be read."""


class TargetAway(ConnectionError):
    """The target takes no documents now; what was not delivered comes again."""


class Letters(Protocol):
    """Where rejected documents wait for a person."""

    async def put(self, rejected: Sequence[tuple[Waiting, Entry]]) -> None:
        """Store them; returns when they are durable."""
        ...


class Health:
    """Whether a target takes documents, as far as all batches saw; a change is logged once."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._away_since: float | None = None
        self._given_up = 0

    @property
    def away(self) -> bool:
        """It did not answer when asked last."""
        return self._away_since is not None

    @property
    def suspicious(self) -> bool:
        """It answers, but one document after the other had to be given up."""
        return self._given_up >= SUSPICION

    def gave_up(self, documents: int) -> None:
        """Documents became dead letters because calls failed, not because the target refused them."""
        self._given_up += documents

    def answered(self) -> None:
        """It took or judged a document."""
        self._given_up = 0
        if self._away_since is not None:
            seconds = time.monotonic() - self._away_since
            self._away_since = None
            log.info("Target %s takes documents again after %.1f s.", self._target, seconds)

    def lost(self, reason: str) -> None:
        """It takes nothing."""
        if self._away_since is None:
            self._away_since = time.monotonic()
            log.warning("Target %s takes no documents: %s; trying again until it does.", self._target, reason)


@dataclass(frozen=True, slots=True)
class Means:
    """What all batches of a target share.

    Attributes:
        target: its name.
        ledger: of this target, opened.
        letters: its dead letters.
        budget: of its account.
        health: of the target.
        attempts: tries of one document, while the target answers, before it becomes a dead letter.
        rewrite: a replay: what the target holds counts, not what the ledger says it took.
        patience: seconds that one delivery keeps trying while the target is away.
        tries: tries so far of versions that were given back.
    """

    target: str
    ledger: Ledger
    letters: Letters
    budget: Budget
    health: Health
    attempts: int
    rewrite: bool
    patience: float
    tries: dict[tuple[str, Key, int], int]


@dataclass(frozen=True, slots=True)
class Trial:
    """A document that is being sent.

    Attributes:
        newest: the document and what it supersedes.
        tries: calls without outcome while the target answered.
        reason: of the last one.
        unknown: the last one was sent without an answer: read back first.
        throttled: the last one met the account's limit, which is nobody's fault.
        pause: seconds the target asked for.
    """

    newest: Newest
    tries: int = 0
    reason: str = ""
    unknown: bool = False
    throttled: bool = False
    pause: float | None = None

    @property
    def document(self) -> Document:
        """The document."""
        return self.newest.waiting.document


class Batch:
    """One batch of one flow; its keys are claimed.

    Args:
        means: what all batches share.
        flow: the flow.
        sink: the flow's sink.
        applied: what the ledger knows of the keys.
        deadline: monotonic time after which a target that is away ends the batch.
        sleep: waits for some seconds; may raise to stop.
    """

    def __init__(
        self,
        means: Means,
        flow: Flow,
        sink: Sink,
        applied: Mapping[Key, Applied],
        deadline: float,
        sleep: Callable[[float], Awaitable[None]],
        transform: Transform | None = None,
    ) -> None:
        self._means, self._flow, self._sink, self._applied = means, flow, sink, applied
        self._deadline, self._sleep, self._transform = deadline, sleep, transform
        self._counts: Counter[Kind] = Counter()
        self._waiting: dict[Key, Waiting] = {}

    async def finish(self, newest: Sequence[Newest]) -> Counter[Kind]:
        """Record what is known without a call, then send the rest until each has its outcome.

        Raises:
            TargetAway: the deadline has passed and the target is away.
            InstepError: a person must mend the target or the flow.
        """
        entries: list[Entry] = superseded(newest)
        trials = []
        for each in newest:
            document = each.waiting.document
            self._waiting[document.key] = each.waiting
            known = self._applied.get(document.key, NOTHING)
            decision = decide(each, known, self._flow.delete, rewrite=self._means.rewrite)
            if isinstance(decision, Entry):
                entries.append(decision)
            elif decision is Next.SEND:
                entry, newer = self._made(each)
                entries += entry
                trials += [Trial(made, self._means.tries.get(_version(document), 0)) for made in newer]
        await self._record(entries)
        await self._send(trials)
        return self._counts

    def _made(self, newest: Newest) -> tuple[list[Entry], list[Newest]]:
        """What is to be sent, or its rejection when the flow's function fails for it."""
        document = newest.waiting.document
        try:
            made = transformed(document, self._flow, self._transform)
        except Untransformable as exc:
            return [Entry(document, Kind.REJECTED, 1, Rejected(CODE, str(exc)))], []
        return [], [replace(newest, waiting=replace(newest.waiting, document=made))]

    async def _send(self, trials: list[Trial]) -> None:
        size, failures = max(1, len(trials)), 0
        while trials:
            ready, left = await self._read_back(trials)
            looked_into = False
            for start in range(0, len(ready), size):
                part, suspicious = await self._call(ready[start : start + size])
                left += part
                looked_into |= suspicious
            if left and not looked_into:
                failures += 1
                left = await self._weigh(left)
                await self._wait(left, failures)
            trials, size = left, max(1, min(size, len(left)) // 2)

    async def _call(self, trials: Sequence[Trial]) -> tuple[list[Trial], bool]:
        """Write once; gives the trials without outcome, and whether refusals among them must be looked into."""
        documents = [trial.document for trial in trials]
        if self._means.budget.paused > self._means.patience:
            raise TargetAway(f"the account is paused for {self._means.budget.paused:.0f} s")
        await self._means.budget.take(self._sink.capabilities.calls_per_document * len(documents), self._sleep)
        hit("delivery.before_write")
        outcomes = await self._write(documents)
        hit("delivery.written")
        # refused with the same words: perhaps one of them spoils the others, smaller batches will tell
        alike = {each for each, times in Counter(o for o in outcomes if isinstance(o, Rejected)).items() if times > 1}
        suspects = [trial for trial, outcome in zip(trials, outcomes, strict=True) if outcome in alike]
        judged = [
            self._judge(trial, outcome) for trial, outcome in zip(trials, outcomes, strict=True) if outcome not in alike
        ]
        entries = [each for each in judged if isinstance(each, Entry)]
        if entries:
            self._means.health.answered()
        await self._record(entries)
        return suspects + [each for each in judged if isinstance(each, Trial)], bool(suspects)

    async def _write(self, documents: Sequence[Document]) -> Sequence[Outcome]:
        try:
            outcomes = await self._sink.write(documents)
        except (ConnectionError, TimeoutError) as exc:
            return [Unknown(str(exc))] * len(documents)
        if len(outcomes) != len(documents):
            raise InstepError(
                f"The sink of {self._means.target} gave {len(outcomes)} outcomes for {len(documents)} documents.",
                "This is a fault of the sink: check it with instep.testing.check_sink.",
            )
        return outcomes

    def _judge(self, trial: Trial, outcome: Outcome) -> Entry | Trial:
        tries = trial.tries + 1
        match outcome:
            case Written(id=target_id):
                return Entry(trial.document, Kind.WRITTEN, tries, target_id=target_id)
            case Unchanged(id=target_id):
                return Entry(trial.document, Kind.UNCHANGED, tries, target_id=target_id)
            case Rejected():
                return Entry(trial.document, Kind.REJECTED, tries, outcome)
            case Throttled(scope=scope, after=after):
                self._means.budget.pause(scope, after)
                reason = f"the account's limit is reached for {after:g} s"
                return replace(trial, reason=reason, unknown=False, throttled=True, pause=0.0)
            case Retry(reason=reason, after=after):
                return replace(trial, reason=reason, unknown=False, throttled=False, pause=after)
            case Unknown(reason=reason):
                return replace(trial, reason=reason, unknown=True, throttled=False, pause=None)

    async def _read_back(self, trials: Sequence[Trial]) -> tuple[list[Trial], list[Trial]]:
        """After an unknown answer, what the target holds already needs no second write.

        Gives the trials that may be sent, and those that may not because the target could not be read.
        """
        asked = [trial for trial in trials if trial.unknown]
        if not asked or self._sink.capabilities.upsert_by_key:
            return list(trials), []
        others = [trial for trial in trials if not trial.unknown]
        try:
            held = await self._sink.read([trial.document.key for trial in asked])
        except (ConnectionError, TimeoutError):
            return others, asked
        done = [trial for trial in asked if self._holds(held.get(trial.document.key), trial.document)]
        await self._record([Entry(trial.document, Kind.WRITTEN, trial.tries + 1) for trial in done])
        return others + [trial for trial in asked if trial not in done], []

    def _holds(self, held: Mapping[str, object] | None, document: Document) -> bool:
        if document.fields is None or held is None:
            return document.fields is None and held is None
        fields = document.fields
        columns = self._flow.delivered or tuple(fields)
        own = [name for name in columns if name in fields and name not in self._flow.key]
        return all(name in held and held[name] == fields[name] for name in own)

    async def _weigh(self, trials: Sequence[Trial]) -> list[Trial]:
        """Count a failed try, unless the target itself is away: then it is nobody's fault; give up on the worn out."""
        if all(trial.throttled for trial in trials):
            return list(trials)
        health = self._means.health
        if health.suspicious or not await self._readable(trials[0].document.key):
            health.lost(trials[0].reason)
            return list(trials)
        counted = [trial if trial.throttled else replace(trial, tries=trial.tries + 1) for trial in trials]
        worn = [trial for trial in counted if trial.tries >= self._means.attempts]
        await self._record([Entry(t.document, Kind.REJECTED, t.tries, Rejected("GAVE_UP", t.reason)) for t in worn])
        health.gave_up(len(worn))
        return [trial for trial in counted if trial not in worn]

    async def _readable(self, key: Key) -> bool:
        try:
            await self._sink.read([key])
        except (ConnectionError, TimeoutError):
            return False
        return True

    async def _wait(self, trials: Sequence[Trial], failures: int) -> None:
        if not trials:
            return
        for trial in trials:
            self._means.tries[_version(trial.document)] = trial.tries
        if time.monotonic() > self._deadline:
            raise TargetAway(trials[0].reason)
        asked = [trial.pause for trial in trials if trial.pause is not None]
        backoff = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(failures - 1, 16)) * random.uniform(0.8, 1.2)
        await self._sleep(max(asked) if len(asked) == len(trials) else max([backoff, *asked]))

    async def _record(self, entries: Sequence[Entry]) -> None:
        if not entries:
            return
        rejected = [(self._waiting[e.document.key], e) for e in entries if e.kind is Kind.REJECTED]
        if rejected:
            await self._means.letters.put(rejected)
        await self._means.ledger.record(entries)
        hit("delivery.recorded")
        now = time.time()
        for entry in entries:
            self._means.tries.pop(_version(entry.document), None)
            OUTCOMES.labels(self._means.target, entry.kind.value).inc()
            if entry.document.committed_us and entry.kind in (Kind.WRITTEN, Kind.UNCHANGED):
                LAG.labels("target").observe(max(0.0, now - entry.document.committed_us / 1e6))
        self._counts.update(entry.kind for entry in entries)


def _version(document: Document) -> tuple[str, Key, int]:
    return document.flow, document.key, document.version
