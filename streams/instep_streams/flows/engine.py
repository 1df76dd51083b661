"""The worker's engine: rows in, documents out, one PostgreSQL transaction per step. Knows nothing of Kafka.

The invariant, held step by step: what was last emitted for a key equals the flow's SELECT on the replica for that key,
but for keys that are written down as dirty or pending.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from psycopg import Connection
from psycopg.errors import ProgramLimitExceeded

from instep.failpoints import hit
from instep.flowfile import Flow
from instep.protocols import Key
from instep_schemas.documents import DocumentColumn
from instep_streams.flows import progress
from instep_streams.flows.batch import Batch
from instep_streams.flows.catalog import Table, query
from instep_streams.flows.compile import Plan
from instep_streams.flows.deploy import deploy, version_of
from instep_streams.flows.evaluate import EVALUATION_ERRORS, Emitted, Evaluation, FlowFault
from instep_streams.flows.faults import Faults
from instep_streams.flows.images import Anchor, divide
from instep_streams.flows.layout import Share
from instep_streams.flows.outgrown import give_way
from instep_streams.flows.pace import SLICE, Pace
from instep_streams.flows.parts import Parts, switch_off, use, wanted_by
from instep_streams.flows.progress import NOT_ADOPTED, Progress
from instep_streams.flows.releases import CLOCK, Clock, Release, look_at_all
from instep_streams.flows.replica import Replica
from instep_streams.flows.rows import Entry
from instep_streams.flows.tables import Tables
from instep_streams.flows.versions import set_up

_ALL: Final = Share()
_ALONE: Final[Mapping[str, str]] = {}
_KEEP_GONE: Final = 100_000
"""Entries for which a deleted row's position is kept. Applied entries are passed over; this is the second fence."""

log = logging.getLogger(__name__)


class Engine:
    """One source's replica and flows.

    Args:
        conn: from `session.open_state`, autocommit; the engine makes its own transactions.
        source: the source's name.
        share: the keys that it evaluates.
        joined: the sources joined to it, each with what flows call its schema `public`.
        clock: what time it is, for flows with a schedule or an interval.

    Raises:
        StateError: another process works on this source, or the state was filled with other sources joined.
    """

    def __init__(
        self, conn: Connection[Any], source: str, share: Share = _ALL, joined: Mapping[str, str] = _ALONE,
        clock: Clock = CLOCK,
    ) -> None:  # fmt: skip
        self._conn, self._clock, self._source, self._share = conn, clock, source, share
        with conn.transaction():
            set_up(conn)
        self.tables = Tables(conn, source, joined)
        self._replica = Replica(conn, self.tables)
        self._flows: dict[str, Evaluation] = {}
        self.parts: dict[str, Parts] = {}
        self._whole: set[str] = set()
        self._pace, self._faults = Pace(), Faults()
        self._releases: dict[str, Release] = {}
        self._tombstones: dict[str, int] = {}
        self._live = False
        self.progress = progress.opened(conn, source, joined)

    def ensure_tables(self, tables: Iterable[Table], source: str = "") -> set[str]:
        """Create or follow a source's tables (empty: our own); gives ids of those changed: deploy their flows again."""
        changed = {table.id for table in tables if self.tables.ensure(table, source)}
        if changed:
            self._replica.forget_statements()
        return changed

    # -- flows ------------------------------------------------------------------------------------------------------

    @property
    def plans(self) -> Mapping[str, Plan]:
        """The deployed flows."""
        return {name: each.plan for name, each in self._flows.items()}

    def columns(self, flow: str) -> tuple[DocumentColumn, ...]:
        """A deployed flow's output columns."""
        return self._flows[flow].columns

    def version(self, flow: str) -> str:
        """A deployed flow's version: changes with its SELECT, key or output types."""
        return version_of(self._flows[flow].plan, self._flows[flow].columns)

    def deploy(self, flows: Mapping[str, Flow]) -> set[str]:
        """Deploy these flows and no others, on whole transactions only (`progress.cut` false).

        A new or changed flow is evaluated as a whole by the next `slice`s; flows that are gone keep their documents.

        Returns:
            The flows that this state database did not know.

        Raises:
            FlowError: one of them is refused; nothing is deployed then.
        """
        done = deploy(self._conn, self._source, self.tables, flows, self._clock)
        self._flows, self._whole, self._releases = done.flows, done.whole, done.releases
        for name, each in self._flows.items():
            types = {column.name: column.type for column in each.columns}
            self._share.require(name, [types[column] for column in each.plan.anchor])
            each.share = self._share
        self.parts = {name: parts for name, parts in done.parts.items() if parts is not None}
        self._use_parts()
        for name, each in self._flows.items():
            if self.fault(name):
                self._faults.remember(name, each)
        self._live = True
        self.tables.forget_gone(lambda source: self.progress.of(source).entry - _KEEP_GONE)
        self._unsettle()
        return done.new

    def _unsettle(self) -> None:
        """A flow is to be evaluated as a whole: not all that is applied has its documents out."""
        if self._whole and self.progress != self.progress.unsettled():
            self._move(self.progress.unsettled())

    def _use_parts(self) -> None:
        """Look for changes as the flows are evaluated: over their intermediate results, or without."""
        for name, evaluation in self._flows.items():
            use(evaluation, self.parts.get(name))
        wanted = wanted_by({name: each.plan for name, each in self._flows.items()}, self.parts)
        self._replica.want({table: each for table, each in wanted.items() if table in self.tables})

    def look_at_all(self) -> None:
        """Compare every flow as a whole when it is deployed next: rows were applied that nobody noted as dirty."""
        look_at_all(self._conn, self._source)

    def adopt(self, flow: str, keys: Iterable[tuple[Key, str]], newest: int = 0) -> None:
        """Take keys and digests that the flow's topic holds as what was emitted; the flow is compared as a whole.

        Batches are numbered above the topic's newest: it may be another worker's, and targets take no older ones.
        """
        with self._conn.transaction():
            self._move(replace(self.progress, batch=max(self.progress.batch, newest)))
            self._flows[flow].adopt(keys)
            self._conn.execute("UPDATE instep.flows SET whole = true, adopted = true WHERE name = %s", (flow,))
        self._whole.add(flow)
        self._unsettle()

    def start_above(self, batch: int) -> None:
        """Number batches above one that was published before this state database existed, or from a newer copy."""
        if batch > self.progress.batch:
            with self._conn.transaction():
                self._move(replace(self.progress, batch=batch))
                progress.adopted(self._conn, self._source, NOT_ADOPTED)  # until it is, also by a later start

    # -- steps ------------------------------------------------------------------------------------------------------

    def process(
        self, entries: Sequence[Entry], journal: int = 0, offsets: Mapping[str, int] | None = None, source: str = ""
    ) -> Batch:  # fmt: skip
        """Apply journal entries of one source, in order, and evaluate what they made dirty, in one transaction.

        Entries that were applied before are passed over. Documents come out only where the last entry ends a source
        transaction, and no joined source is within one. The caller publishes the batch, then calls `sent`.

        Args:
            entries: with their changes, in source order.
            source: whose entries they are; empty: the engine's own.
            journal: offset of the journal record behind the last entry.
            offsets: of entries that were made here, what to read next (`Progress.offsets`).

        Raises:
            StateError: an entry is missing in between.
        """
        own = self.progress.of(source)
        todo = [(entry, changes) for entry, changes in entries if entry.batch > own.entry]
        if not todo:
            return Batch(self.progress, [])
        own.require_next(source or self._source, (entry.batch for entry, _ in todo))
        last = todo[-1][0]
        committed_us = 0 if last.snapshot else last.last_commit_us
        aim = self.progress.moved(
            source, entry=last.batch, journal=journal, position=last.last, committed_us=committed_us,
            more=not last.whole, offsets=own.offsets if offsets is None else offsets,
        )  # fmt: skip
        return self._process(todo, set(), aim)

    def repeat(self, entries: Sequence[Entry]) -> Batch:
        """Apply entries again that were applied before, whole or in part: the position rule drops what is older."""
        return self._process(entries, set(self._flows), self.progress)

    def close(self) -> None:
        """End the session; safe to call twice."""
        self._conn.close()

    def _process(self, entries: Sequence[Entry], put_off: set[str], aim: Progress) -> Batch:
        while True:
            try:
                return self._step(entries, put_off, aim)
            except FlowFault as fault:
                for release in self._releases.values():
                    release.look_again()
                if fault.of_part:
                    self._without_parts(fault)
                else:
                    log.error("flow %s cannot be evaluated: %s", fault.flow, fault.error)
                    put_off.add(fault.flow)
            except ProgramLimitExceeded as exc:
                if not give_way(self._conn, self.tables, entries, exc):
                    raise

    def _step(self, entries: Sequence[Entry], put_off: set[str], aim: Progress) -> Batch:
        documents: list[Emitted] = []
        whole: set[str] = set()
        batch = self.progress.batch + 1
        count = sum(len(changes) for _, changes in entries)
        with self._conn.transaction():
            images = self._replica.apply((entry.batch, change) for entry, changes in entries for change in changes)
            dirty = images.anchors(self._walk)
            self._bring_up_parts(dirty)
            for flow, found in dirty.items():
                if flow in self._whole:
                    continue
                if flow in self._releases:
                    self._releases[flow].hold(set().union(*found))
                    continue
                now, later = divide(found, max(SLICE, count))
                if aim.cut or flow in put_off:
                    now, later = set(), now | later
                if self._flows[flow].is_many(later):
                    self._conn.execute("UPDATE instep.flows SET whole = true WHERE name = %s", (flow,))
                    whole.add(flow)
                elif later:
                    self._flows[flow].put_off(later)
                if now:
                    documents += self._evaluate(flow, now, batch)
            self._whole |= whole
            reached = self._reached(aim, documents)
            self._record(documents, reached)
            hit("worker.applied")
        self.progress = reached
        hit("worker.committed")
        return self._made(documents)

    def _reached(self, aim: Progress, documents: Sequence[Emitted]) -> Progress:
        """The progress of a step: a new batch number only for new documents, settled when no key waits."""
        waits = not self._live or aim.cut or self._whole or any(each.waiting for each in self._flows.values())
        return replace(aim if waits else aim.at_rest(), batch=self.progress.batch + bool(documents))

    def _record(self, documents: Sequence[Emitted], reached: Progress) -> None:
        counts = Counter(each.flow for each in documents)
        progress.move(self._conn, self._source, self.progress, reached, counts)

    def _move(self, reached: Progress) -> None:
        progress.move(self._conn, self._source, self.progress, reached)
        self.progress = reached

    def _made(self, documents: list[Emitted], *, seed: bool = False) -> Batch:
        for each in documents:
            if each.document is None:
                self._tombstones.setdefault(each.flow, each.batch)
        return Batch(self.progress, documents, seed)

    def _walk(self, sql: str, values: Sequence[Sequence[str]]) -> list[Anchor]:
        return self._conn.execute(query(sql), list(values), prepare=True).fetchall()

    def _bring_up_parts(self, dirty: dict[str, list[set[Anchor]]]) -> None:
        """Intermediate results first; the keys that they lead to are added to the flows' own."""
        for flow, parts in self.parts.items():
            try:
                found = [anchors for anchors in parts.apply(dirty, SLICE, self._walk) if anchors]
            except EVALUATION_ERRORS as exc:
                raise FlowFault(flow, exc, of_part=True) from exc
            if found:
                dirty[flow] = dirty.get(flow, []) + found

    def _without_parts(self, fault: FlowFault) -> None:
        """A part's SELECT fails for some of its keys: by the flow's own text only the documents concerned fail."""
        log.info("flow %s is evaluated without intermediate results: %s", fault.flow, fault.error)
        switch_off(self._conn, self._flows[fault.flow].number)
        del self.parts[fault.flow]
        self._use_parts()

    def _evaluate(self, flow: str, anchors: set[Anchor], batch: int) -> list[Emitted]:
        try:
            return self._flows[flow].evaluate(sorted(anchors), batch)
        except EVALUATION_ERRORS as exc:
            raise FlowFault(flow, exc) from exc

    @property
    def waiting(self) -> bool:
        """Whether `slice` has something to do now."""
        return not self.progress.cut and next(self._ready(), None) is not None

    def _ready(self) -> Iterator[str]:
        for name, each in self._flows.items():
            behind = name in self.parts and self.parts[name].waiting
            due = name in self._releases and self._releases[name].due
            if behind or due or name in self._whole or each.waiting or self._faults.due(name):
                yield name

    def slice(self, count: int | None = None) -> Batch:
        """One step on what was put off: a whole evaluation, or at most `count` keys of one flow (default: 50 ms)."""
        flow = next(self._ready(), None)
        if flow is None or self.progress.cut:
            return Batch(self.progress, [])
        started, most = time.perf_counter(), self._pace.count(flow) if count is None else count
        try:
            if flow in self.parts and self.parts[flow].waiting:
                self._slice_parts(flow, self.parts[flow], most)
                return Batch(self.progress, [])
            return self._slice(flow, most)
        finally:
            self._pace.took(flow, most, time.perf_counter() - started)

    def _slice_parts(self, flow: str, parts: Parts, count: int) -> None:
        try:
            with self._conn.transaction():
                parts.slice(count)
        except EVALUATION_ERRORS as exc:
            self._without_parts(FlowFault(flow, exc, of_part=True))
        except BaseException:
            parts.look_again()
            raise

    def _slice(self, flow: str, count: int) -> Batch:
        evaluation = self._flows[flow]
        whole, seed, release = flow in self._whole, evaluation.seeding, self._releases.get(flow)
        try:
            with self._conn.transaction():
                documents: list[Emitted] = []
                if release is not None and release.due:
                    whole = release.begin() or whole
                if whole:
                    self._evaluate_whole(flow, evaluation)
                else:
                    documents = evaluation.slice(count, self.progress.batch + 1)
                self._whole.discard(flow)
                if release is not None and documents:
                    release.emitted()
                reached = self._reached(self.progress, documents)
                self._record(documents, reached)
        except BaseException:
            evaluation.look_again()
            if release is not None:
                release.look_again()
            if whole:
                self._whole.add(flow)
            raise
        self.progress = reached
        self._faults.note(flow, evaluation)
        return self._made(documents, seed=seed)

    def _evaluate_whole(self, flow: str, evaluation: Evaluation) -> None:
        try:
            with self._conn.transaction():
                evaluation.evaluate_all()
        except EVALUATION_ERRORS as exc:
            log.warning("flow %s fails for some keys, evaluating one by one: %s", flow, exc)
            evaluation.put_off_all()
        if flow in self._releases:
            self._releases[flow].open()
        self._conn.execute("UPDATE instep.flows SET whole = false WHERE name = %s", (flow,))

    # -- publication ------------------------------------------------------------------------------------------------

    def unsent(self, marker: int) -> Batch:
        """What was committed but not published: everything after the batch of the last marker."""
        documents = []
        for flow, evaluation in self._flows.items():
            found = evaluation.unsent(marker)
            if found and flow in self._releases:
                self._releases[flow].emitted()
            documents += found
            self._faults.note(flow, evaluation)
        return self._made(sorted(documents, key=lambda each: each.batch))

    def sent(self, batch: int) -> None:
        """Everything up to this batch is published: tombstones need no longer be kept."""
        done = [flow for flow, first in self._tombstones.items() if first <= batch]
        for flow in done:
            if flow in self._flows:
                self._flows[flow].forget_tombstones(batch)
            del self._tombstones[flow]

    def fault(self, flow: str) -> str:
        """Why some of a flow's keys cannot be evaluated, empty when all can."""
        row = self._conn.execute("SELECT fault FROM instep.flows WHERE name = %s", (flow,)).fetchone()
        return str(row[0]) if row else ""
