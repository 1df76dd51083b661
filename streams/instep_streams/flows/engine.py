"""The worker's engine: rows in, documents out, one PostgreSQL transaction per step. Knows nothing of Kafka.

The invariant, held step by step: what was last emitted for a key equals the flow's SELECT on the replica for that key,
but for keys that are written down as dirty or pending.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import psycopg
from psycopg import Connection

from instep.change import Position
from instep.errors import StateError
from instep.failpoints import hit
from instep.flowfile import Flow
from instep.journal import JournalEntry
from instep.protocols import Key
from instep_schemas.documents import DocumentColumn
from instep_streams.flows.catalog import Table, query, quote
from instep_streams.flows.check import check
from instep_streams.flows.compile import Plan, compile_flow
from instep_streams.flows.evaluate import EVALUATION_ERRORS, Emitted, Evaluation
from instep_streams.flows.images import Anchor, Wanted
from instep_streams.flows.refusals import refuse
from instep_streams.flows.replica import Replica, RowChange
from instep_streams.flows.tables import Tables, set_up

SLICE: Final = 1_000
"""Most keys evaluated in one step, so that a change of many keys does not hold up the others."""
_MANY: Final = 5_000
_LARGE_PART: Final = 0.1
"""Above both, the SELECT is run once for all keys instead of once per key: 10 instead of 60 microseconds a key."""
_RETRY_S: Final = 30.0
_NOWHERE: Final = Position(0, 0, 0)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the replica is.

    Attributes:
        entry: number of the last journal entry applied, 0 for none.
        position: of its last change.
        committed_us: commit time of its last transaction, 0 for a snapshot.
        more: its last transaction goes on in the next entry: documents must not be shown.
        batch: number of the worker's last batch, the version of its documents.
    """

    entry: int = 0
    position: Position = _NOWHERE
    committed_us: int = 0
    more: bool = False
    batch: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step gives to be published, in one Kafka transaction.

    Attributes:
        progress: after the step; `progress.batch` is the marker.
        documents: every document and tombstone of the step.
        seed: the documents stem from a first or changed evaluation, not from a change.
    """

    progress: Progress
    documents: list[Emitted]
    seed: bool = False


class Engine:
    """One source's replica and flows.

    Args:
        conn: from `session.open_state`, autocommit; the engine makes its own transactions.
        source: the source's name.

    Raises:
        StateError: another process works on this source.
    """

    def __init__(self, conn: Connection[Any], source: str) -> None:
        self._conn = conn
        self._source = source
        with conn.transaction():
            set_up(conn)
        self.tables = Tables(conn, source)
        self._replica = Replica(conn, self.tables)
        self._flows: dict[str, Evaluation] = {}
        self._whole: set[str] = set()
        self._retry_at: dict[str, float] = {}
        self._tombstones: dict[str, int] = {}
        self.progress = self._load_progress()

    def _load_progress(self) -> Progress:
        row = self._conn.execute(
            "SELECT entry, epoch, lsn::bigint, seq, committed_us, more, batch FROM instep.progress WHERE source = %s",
            (self._source,),
        ).fetchone()
        if row is None:
            self._conn.execute("INSERT INTO instep.progress VALUES (%s, 0, 0, 0, 0, 0, false, 0)", (self._source,))
            return Progress()
        entry, epoch, lsn, seq, committed_us, more, batch = row
        return Progress(entry, Position(epoch, lsn, seq), committed_us, more, batch)

    def ensure_tables(self, tables: Iterable[Table]) -> set[str]:
        """Create or follow table definitions; gives the ids of those that changed. Flows on them must be redeployed."""
        changed = {table.id for table in tables if self.tables.ensure(table)}
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

    def deploy(self, flows: Mapping[str, Flow]) -> dict[str, bool]:
        """Deploy these flows and no others, on whole transactions only (`progress.more` false).

        A new or changed flow is evaluated as a whole by the next `slice`s; flows that are gone keep their documents.

        Returns:
            Per flow, whether it is new (never deployed in this state database).

        Raises:
            FlowError: one of them is refused; nothing is deployed then.
        """
        plans = {name: compile_flow(flow, self.tables) for name, flow in flows.items()}
        deployed: dict[str, Evaluation] = {}
        new: dict[str, bool] = {}
        with self._conn.transaction():
            for name, plan in plans.items():
                columns = check(self._conn, plan)
                deployed[name], new[name] = self._register(plan, columns)
                self._index(plan)
            self._conn.execute(
                "UPDATE instep.flows SET state = 'removed' WHERE source = %s AND NOT name = ANY(%s) AND state = 'live'",
                (self._source, list(flows)),
            )
            rows = self._conn.execute(
                "SELECT name FROM instep.flows WHERE source = %s AND whole AND state = 'live'", (self._source,)
            )
            whole = {name for (name,) in rows.fetchall()}
        for name in self._flows.keys() - flows.keys():
            log.warning("flow %s is removed: its documents stay as they are", name)
        for table in {table for plan in plans.values() for table in plan.tables}:
            self._conn.execute(f"ANALYZE {self.tables[table].sql}")
        self._flows, self._whole = deployed, whole
        self._replica.want(_wanted(plans.values()))
        return new

    def _register(self, plan: Plan, columns: tuple[DocumentColumn, ...]) -> tuple[Evaluation, bool]:
        version = _version(plan, columns)
        keys = json.dumps([[c.name, c.type] for c in columns if c.name in plan.flow.key] + [list(plan.anchor)])
        row = self._conn.execute(
            "SELECT id, version, keys::jsonb = %s::jsonb, state, source = %s FROM instep.flows WHERE name = %s",
            (keys, self._source, plan.flow.name),
        ).fetchone()
        if row is None:
            (number,) = self._conn.execute(
                "INSERT INTO instep.flows (source, name, version, keys, whole, state) VALUES (%s, %s, %s, %s, true,"
                " 'live') RETURNING id",
                (self._source, plan.flow.name, version, keys),
            ).fetchone() or (0,)
            evaluation = Evaluation(self._conn, plan, columns, number)
            evaluation.create()
            return evaluation, True
        number, held, same_keys, state, same_source = row
        if not same_keys or not same_source:
            raise refuse("KEY_CHANGED", f"Flow {plan.flow.name}")
        if held != version or state != "live":
            self._conn.execute(
                "UPDATE instep.flows SET version = %s, whole = true, state = 'live', fault = '' WHERE id = %s",
                (version, number),
            )
        return Evaluation(self._conn, plan, columns, number), False

    def _index(self, plan: Plan) -> None:
        for name, expressions in plan.indexes:
            table = self.tables[name]
            if tuple(quote(each) for each in table.key[: len(expressions)]) == expressions:
                continue
            digest = hashlib.sha256("\0".join((name, *expressions)).encode()).hexdigest()[:16]
            listed = ", ".join(
                each if each.startswith('"') and each.endswith('"') else f"({each})" for each in expressions
            )
            try:
                with self._conn.transaction():
                    self._conn.execute(f"CREATE INDEX IF NOT EXISTS instep_{digest} ON {table.sql} ({listed})".encode())
            except psycopg.errors.InvalidObjectDefinition:
                raise refuse("KEY_EXPR", f"Flow {plan.flow.name}: {listed}") from None

    def adopt(self, flow: str, keys: Iterable[tuple[Key, str]]) -> None:
        """For a flow that is new in this state database: keys and digests that its topic already holds."""
        with self._conn.transaction():
            self._flows[flow].adopt(keys)

    def start_above(self, batch: int) -> None:
        """Number batches above one that was published before this state database existed."""
        if batch > self.progress.batch:
            progress = replace(self.progress, batch=batch)
            self._save(progress)
            self.progress = progress

    # -- steps ------------------------------------------------------------------------------------------------------

    def process(self, entries: Sequence[tuple[JournalEntry, Sequence[RowChange]]]) -> Batch:
        """Apply journal entries, in order, and evaluate what they made dirty, in one transaction.

        Entries that were applied before are passed over. Documents come out only where the last entry ends a source
        transaction. The caller publishes the batch, then calls `sent`.

        Raises:
            StateError: an entry is missing in between.
        """
        todo = [(entry, changes) for entry, changes in entries if entry.batch > self.progress.entry]
        if not todo:
            return Batch(self.progress, [])
        self._require_next(todo)
        last = todo[-1][0]
        progress = Progress(last.batch, last.last, last.last_commit_us, last.more, self.progress.batch + 1)
        put_off: set[str] = set()
        while True:
            try:
                return self._process(todo, put_off, progress)
            except _FlowFault as fault:
                log.error("flow %s cannot be evaluated: %s", fault.flow, fault.error)
                put_off.add(fault.flow)

    def repeat(self, entries: Sequence[tuple[JournalEntry, Sequence[RowChange]]]) -> Batch:
        """Apply entries again that were applied before, whole or in part: the position rule drops what is older."""
        return self._process(entries, set(self._flows), replace(self.progress, batch=self.progress.batch + 1))

    def close(self) -> None:
        """End the session; safe to call twice."""
        self._conn.close()

    def _require_next(self, entries: Sequence[tuple[JournalEntry, Sequence[RowChange]]]) -> None:
        expected = self.progress.entry
        for entry, _ in entries:
            expected += 1
            if entry.batch != expected:
                raise StateError(
                    f"The journal of {self._source} goes on with entry {entry.batch}; the replica needs {expected}.",
                    "Records are missing: rebuild the replica from a new snapshot.",
                )

    def _process(
        self, entries: Sequence[tuple[JournalEntry, Sequence[RowChange]]], put_off: set[str], progress: Progress
    ) -> Batch:
        documents: list[Emitted] = []
        whole: set[str] = set()
        with self._conn.transaction():
            images = self._replica.apply((entry.batch, change) for entry, changes in entries for change in changes)
            for flow, anchors in images.anchors(self._walk).items():
                if flow in self._whole:
                    continue
                if self._is_large(flow, anchors):
                    self._conn.execute("UPDATE instep.flows SET whole = true WHERE name = %s", (flow,))
                    whole.add(flow)
                else:
                    documents += self._settle(flow, anchors, progress, flow in put_off)
            self._save(progress)
            hit("worker.applied")
        self.progress = progress
        self._whole |= whole
        hit("worker.committed")
        self._note_tombstones(documents)
        return Batch(progress, documents)

    def _walk(self, sql: str, values: Sequence[Sequence[str]]) -> list[Anchor]:
        return self._conn.execute(query(sql), list(values), prepare=True).fetchall()

    def _is_large(self, flow: str, anchors: set[Anchor]) -> bool:
        return len(anchors) > _MANY and len(anchors) > _LARGE_PART * self._flows[flow].emitted_estimate()

    def _settle(self, flow: str, anchors: set[Anchor], progress: Progress, put_off: bool) -> list[Emitted]:
        """Evaluate dirty anchors now, or write them down: many, failing, or within a source transaction."""
        evaluation = self._flows[flow]
        if progress.more or put_off or len(anchors) > SLICE:
            evaluation.put_off(anchors)
            return []
        try:
            return evaluation.evaluate(sorted(anchors), progress.batch)
        except EVALUATION_ERRORS as exc:
            raise _FlowFault(flow, exc) from exc

    def _save(self, progress: Progress) -> None:
        done = self._conn.execute(
            "UPDATE instep.progress SET entry = %s, epoch = %s, lsn = %s, seq = %s, committed_us = %s, more = %s,"
            " batch = %s WHERE source = %s AND entry = %s AND batch = %s",
            (
                progress.entry, *progress.position, progress.committed_us, progress.more, progress.batch,
                self._source, self.progress.entry, self.progress.batch,
            ),
            prepare=True,
        )  # fmt: skip
        if done.rowcount != 1:
            raise StateError(
                f"Another worker moved the state of source {self._source}.", "Run one worker per source and database."
            )

    @property
    def waiting(self) -> bool:
        """Whether `slice` has something to do now."""
        return not self.progress.more and next(self._ready(), None) is not None

    def _ready(self) -> Iterator[str]:
        now = time.monotonic()
        for name, each in self._flows.items():
            if name in self._whole or each.waiting or self._retry_at.get(name, now + 1) <= now:
                yield name

    def slice(self, count: int = SLICE) -> Batch:
        """One step on what was put off: a whole evaluation, or at most `count` keys of one flow."""
        flow = next(self._ready(), None)
        if flow is None or self.progress.more:
            return Batch(self.progress, [])
        evaluation = self._flows[flow]
        progress = replace(self.progress, batch=self.progress.batch + 1)
        try:
            with self._conn.transaction():
                documents = evaluation.slice(count, progress.batch) if flow not in self._whole else []
                if flow in self._whole:
                    self._evaluate_whole(flow, evaluation)
                self._save(progress)
        except BaseException:
            evaluation.look_again()
            raise
        self.progress = progress
        self._whole.discard(flow)
        self._note_fault(flow, evaluation)
        self._note_tombstones(documents)
        return Batch(progress, documents, seed=True)

    def _evaluate_whole(self, flow: str, evaluation: Evaluation) -> None:
        try:
            with self._conn.transaction():
                evaluation.evaluate_all()
        except EVALUATION_ERRORS as exc:
            log.warning("flow %s fails for some keys, evaluating one by one: %s", flow, exc)
            evaluation.put_off_all()
        self._conn.execute("UPDATE instep.flows SET whole = false WHERE name = %s", (flow,))

    def _note_fault(self, flow: str, evaluation: Evaluation) -> None:
        fault = evaluation.fault
        text = "" if fault is None else (str(fault).splitlines() or [type(fault).__name__])[0]
        if text:
            log.error("flow %s: some keys cannot be evaluated: %s", flow, text)
            self._retry_at[flow] = time.monotonic() + _RETRY_S
        if text or self._retry_at.pop(flow, None) is not None:
            self._conn.execute("UPDATE instep.flows SET fault = %s WHERE name = %s", (text, flow))

    # -- publication ------------------------------------------------------------------------------------------------

    def unsent(self, marker: int) -> Batch:
        """What was committed but not published: everything after the batch of the last marker."""
        documents = [each for evaluation in self._flows.values() for each in evaluation.unsent(marker)]
        self._note_tombstones(documents)
        return Batch(self.progress, sorted(documents, key=lambda each: each.batch))

    def sent(self, batch: int) -> None:
        """Everything up to this batch is published: tombstones need no longer be kept."""
        done = [flow for flow, first in self._tombstones.items() if first <= batch]
        for flow in done:
            if flow in self._flows:
                self._flows[flow].forget_tombstones(batch)
            del self._tombstones[flow]

    def _note_tombstones(self, documents: Iterable[Emitted]) -> None:
        for each in documents:
            if each.document is None:
                self._tombstones.setdefault(each.flow, each.batch)

    def counts(self) -> dict[str, dict[str, int]]:
        """Per flow: documents alive and keys that wait."""
        return {name: each.counts() for name, each in self._flows.items()}


class _FlowFault(Exception):
    """One flow's SELECT failed; the step is done again with its keys put off."""

    def __init__(self, flow: str, error: Exception) -> None:
        super().__init__(flow)
        self.flow = flow
        self.error = (str(error).splitlines() or [""])[0]


def _version(plan: Plan, columns: Sequence[DocumentColumn]) -> str:
    """Changes when the SELECT, its key or its output types do."""
    parts = [plan.sql, *plan.flow.key, *(f"{each.name} {each.type}" for each in columns)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _wanted(plans: Iterable[Plan]) -> dict[str, list[Wanted]]:
    wanted: dict[str, list[Wanted]] = {}
    for plan in plans:
        for table, walks in plan.walks.items():
            wanted.setdefault(table, []).append(Wanted(plan.flow.name, plan.needed[table], walks))
    return wanted
