"""What deploying flows would emit: evaluated on the replica, in a transaction that is rolled back. Blocking.

The worker may run meanwhile: nothing is locked and nothing of it is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Final

import psycopg
from psycopg import Connection

from instep.errors import FlowError
from instep.flowfile import Flow
from instep.protocols import Key
from instep_schemas.documents import DocumentColumn, value_schema
from instep_streams.flows.catalog import GIVEN, query, quote
from instep_streams.flows.check import check
from instep_streams.flows.compile import Plan, compile_flow
from instep_streams.flows.deploy import keys_of, version_of
from instep_streams.flows.layout import Share
from instep_streams.flows.progress import load
from instep_streams.flows.refusals import refuse
from instep_streams.flows.session import SCANS, open_state
from instep_streams.flows.statements import whole_sql
from instep_streams.flows.tables import Tables
from instep_streams.flows.worker import failure

_OUT: Final = "pg_temp.preview_out"
_PENDING: Final = "pg_temp.preview_pending"
_ALL: Final = Share()


@dataclass(frozen=True, slots=True)
class Sample:
    """One key whose document would change.

    Attributes:
        key: its texts.
        document: `row_to_json` text of the new document; None: a tombstone.
        known: whether a document is there now.
    """

    key: Key
    document: str | None
    known: bool


@dataclass(frozen=True, slots=True)
class Preview:
    """What deploying one flow would do.

    Attributes:
        name: the flow's.
        state: `new`, `changed`, `same`, `removed` (it has no file any more), `refused`.
        version: after the deployment; empty for a refused or removed one.
        deployed: version that is live now; empty for none.
        added: documents that would be new.
        changed: documents that would be different.
        removed: documents that would vanish.
        fault: why it is refused.
        schema: value schema of its documents.
        samples: some keys of each sort.
        code: of the refusal, empty when it is PostgreSQL's.
        timing: when the documents of the deployed one come, in words; empty where that is not known.
    """

    name: str
    state: str
    version: str = ""
    deployed: str = ""
    added: int = 0
    changed: int = 0
    removed: int = 0
    fault: str = ""
    schema: str = ""
    samples: tuple[Sample, ...] = ()
    code: str = ""
    timing: str = ""

    @property
    def documents(self) -> int:
        """How many documents and tombstones the worker would emit."""
        return self.added + self.changed + self.removed


def preview(
    dsn: str, source: str, flows: Mapping[str, Flow], samples: int = 3, share: Share = _ALL,
    joined: Iterable[str] = (),
) -> list[Preview]:  # fmt: skip
    """Evaluate flows that are new or have changed; by name. Empty when the source has no replica yet.

    Flows that read tables of a joined source whose rows are not there yet are left out, too.

    Args:
        dsn: of the state database.
        source: the source's name.
        flows: every flow of the source, as the files define them.
        samples: most keys of each sort to show.
        share: the keys that the state database answers for.
        joined: names of the sources that are joined to it.

    Raises:
        StateError: the state database refuses.
        ConnectionError: it does not answer.
    """
    try:
        with closing(open_state(dsn)) as conn:
            conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            if conn.execute("SELECT to_regclass('instep.flows') IS NULL").fetchone() == (True,):
                return []
            joined = list(joined)
            found = _previews(conn, Tables(conn, source, joined), source, flows, samples, share)
            awaited = any(load(conn, name).entry == 0 for name in joined)
            told = (each for each in found if not (awaited and each.code == "UNKNOWN_TABLE"))
            return sorted(told, key=lambda each: each.name)
    except psycopg.Error as exc:
        raise failure(exc) from exc


def _previews(
    conn: Connection[Any], tables: Tables, source: str, flows: Mapping[str, Flow], samples: int, share: Share
) -> Iterator[Preview]:  # fmt: skip
    rows = conn.execute(
        "SELECT name, id, version, keys::text, state, to_jsonb(f) -> 'definition' FROM instep.flows f"  # as in `status`
        " WHERE source = %s",
        (source,),
    ).fetchall()
    yield from (Preview(name, "removed", deployed=version) for name, _, version, *_ in rows if name not in flows)
    # one that comes back is compared as a whole
    live = {name: (number, version if state == "live" else "", keys) for name, number, version, keys, state, _ in rows}
    timings = {name: Flow.model_validate(row).told_timing for name, *_, row in rows if row is not None}
    for name, flow in flows.items():
        deployed = live[name][1] if name in live else ""
        try:
            with conn.transaction(force_rollback=True):
                plan = compile_flow(flow, tables.captured)
                found = _previewed(conn, plan, check(conn, plan), live.get(name), samples, share)
                yield replace(found, timing=timings.get(name, ""))
        except FlowError as exc:
            yield Preview(name, "refused", deployed=deployed, fault=str(exc), code=exc.code)
        except (psycopg.DataError, psycopg.ProgrammingError) as exc:
            words = (exc.diag.message_primary or str(exc)).rstrip(".")
            yield Preview(name, "refused", deployed=deployed, fault=f"Flow {name} fails on some row: {words}.")


def _previewed(
    conn: Connection[Any],
    plan: Plan,
    columns: tuple[DocumentColumn, ...],
    live: tuple[int, str, str] | None,
    samples: int,
    share: Share,
) -> Preview:
    version, name = version_of(plan, columns), plan.flow.name
    schema = value_schema(name, columns, plan.flow.key)
    if live is not None and live[1] == version:
        return Preview(name, "same", version, version, schema=schema)
    if live is not None:
        same = conn.execute("SELECT %s::jsonb = %s::jsonb", (keys_of(plan, columns), live[2])).fetchone()
        if same != (True,):
            raise refuse("KEY_CHANGED", f"Flow {name}")
    out = _OUT if live is None else f"instep.out_{live[0]}"
    _evaluate(conn, plan, {column.name: column.type for column in columns}, out, share)
    match = " AND ".join(f"o.{quote(key)} = p.{quote(key)}" for key in plan.flow.key)
    joined = f'FROM {_PENDING} p LEFT JOIN {out} o ON {match} AND o."*h" IS NOT NULL'
    counts = conn.execute(
        f'SELECT count(*) FILTER (WHERE p."*doc" IS NOT NULL AND o."*h" IS NULL),'
        f' count(*) FILTER (WHERE p."*doc" IS NOT NULL AND o."*h" IS NOT NULL),'
        f' count(*) FILTER (WHERE p."*doc" IS NULL) {joined}'.encode()
    ).fetchone() or (0, 0, 0)
    state, deployed = ("new", "") if live is None else ("changed", live[1])
    found = tuple(_samples(conn, plan, joined, samples))
    added, changed, removed = map(int, counts)
    return Preview(name, state, version, deployed, added, changed, removed, schema=schema, samples=found)


def _evaluate(conn: Connection[Any], plan: Plan, types: Mapping[str, str], out: str, share: Share) -> None:
    keys = ", ".join(f"{quote(name)} {types[name]}" for name in plan.flow.key)
    primary = f"PRIMARY KEY ({', '.join(map(quote, plan.flow.key))})"
    conn.execute(f'CREATE TEMPORARY TABLE preview_pending ({keys}, "*doc" text, "*h" bigint, {primary})'.encode())
    if out == _OUT:
        conn.execute(f'CREATE TEMPORARY TABLE preview_out ({keys}, "*h" bigint, {primary})'.encode())
    conn.execute("".join(f"SET LOCAL {name} = {value};" for name, value in SCANS.items()))
    try:
        conn.execute(whole_sql(plan, out, _PENDING, share))
    except psycopg.errors.UniqueViolation:
        raise refuse("KEY_NOT_UNIQUE", f"Flow {plan.flow.name}, key ({', '.join(plan.flow.key)})") from None


def _samples(conn: Connection[Any], plan: Plan, joined: str, count: int) -> Iterator[Sample]:
    texts = ", ".join(f"p.{quote(key)}::text" for key in plan.flow.key)
    order = ", ".join(f"p.{quote(key)}" for key in plan.flow.key)
    sort = 'p."*doc" IS NULL, o."*h" IS NULL'
    sql = (
        f'SELECT * FROM (SELECT {texts}, p."*doc", o."*h" IS NOT NULL, row_number() OVER (PARTITION BY {sort}'
        f" ORDER BY {order}) AS number {joined}) AS s WHERE s.number <= {GIVEN}"
    )
    rows = conn.execute(query(sql), (count,)).fetchall()
    for *key, document, known, _ in rows:
        yield Sample(tuple(key), document, known)
