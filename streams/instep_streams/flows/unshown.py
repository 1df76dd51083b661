"""Which keys of timed flows have a document that their topic does not hold yet, for a proof. Blocking."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import Connection

from instep.flowfile import Flow
from instep.protocols import Key
from instep.settings import Settings
from instep_connectors.kafka import topics
from instep_streams.flows import progress
from instep_streams.flows.layout import Share, database, exists, shares
from instep_streams.flows.outbox import known_marker
from instep_streams.flows.session import pin
from instep_streams.flows.statements import key_texts
from instep_streams.flows.worker import failure


@dataclass(frozen=True, slots=True)
class Unshown:
    """Keys of one flow, as one worker has them.

    Attributes:
        share: the keys that it answers for.
        at: where the anchor's columns stand in the key.
        anchors: whose keys were made dirty and not evaluated since.
        keys: evaluated, and not published yet as far as is known.
        every: it may be any key.
    """

    share: Share
    at: tuple[int, ...]
    anchors: frozenset[Key] = frozenset()
    keys: frozenset[Key] = frozenset()
    every: bool = False

    def has(self, key: Key) -> bool:
        """Whether the key is one of them."""
        anchor = tuple(key[i] for i in self.at)
        return self.share.has(anchor) and (self.every or key in self.keys or anchor in self.anchors)


def unshown(settings: Settings, source: str, flows: Iterable[Flow]) -> dict[str, list[Unshown]]:
    """Ask the workers of a source, each at one moment; what is not among them then, the topics hold already.

    Args:
        settings: resolved.
        source: one that has a worker.
        flows: some of its flows; those whose documents come at once are passed over.

    Raises:
        StateError, KafkaFault: refused.
        ConnectionError, TimeoutError: the state database or Kafka does not answer.
    """
    timed = {flow.name: flow for flow in flows if flow.timing is not None}
    found: dict[str, list[Unshown]] = {name: [] for name in timed}
    if not timed:
        return found
    known = topics(settings.kafka)
    try:
        for share in shares(settings, source):
            marker = known_marker(settings.kafka, known, source, share)
            if not share.number or exists(settings, source, share):
                _ask(database(settings, source, share), source, share, marker.batch, timed, found)
    except psycopg.Error as exc:
        raise failure(exc) from exc
    return found


def _ask(
    dsn: str, source: str, share: Share, marker: int, flows: Mapping[str, Flow], found: dict[str, list[Unshown]]
) -> None:  # fmt: skip
    with closing(psycopg.connect(dsn, autocommit=True, application_name="instep status")) as conn:
        pin(conn)
        conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        behind = progress.load(conn, source).batch > marker
        rows = conn.execute(
            "SELECT id, name, keys, whole OR deferred OR state <> 'live' FROM instep.flows WHERE name = ANY(%s)",
            (list(flows),),
        ).fetchall()
        for number, name, keys, every in rows:
            *columns, anchor = keys
            key = flows[name].key
            at = tuple(key.index(each) for each in anchor)
            if every:
                found[name].append(Unshown(share, at, every=True))
                continue
            # in the order in which the worker empties the tables: else each may come to wait for the other
            aside = _keys(conn, f"SELECT {key_texts(key, 'p')} FROM instep.pending_{number} p")
            anchors = _anchors(conn, number, [dict(columns)[each] for each in anchor])
            late = f'SELECT {key_texts(key, "o")} FROM instep.out_{number} o WHERE o."*batch" > {marker}'
            found[name].append(Unshown(share, at, anchors, aside | (_keys(conn, late) if behind else frozenset())))


def _keys(conn: Connection[Any], sql: str) -> frozenset[Key]:
    return frozenset(conn.execute(sql.encode()).fetchall())


def _anchors(conn: Connection[Any], number: int, types: Collection[str]) -> frozenset[Key]:
    # cast there and back: the texts of a change may be longer than those of a key, as of char(n)
    texts = ", ".join(f"((a ->> {i})::{kind})::text" for i, kind in enumerate(types))
    sql = f"SELECT DISTINCT {texts} FROM instep.dirty_{number}, json_array_elements(anchors) AS a WHERE NOT failed"
    return _keys(conn, sql)
