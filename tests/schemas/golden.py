"""Replay a recorded Debezium case on a real PostgreSQL: its SQL, the slot's messages, our encoder's input."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg

from instep.change import Op
from instep.relation import Relation, Type
from instep.topics import data_topic
from instep_connectors.postgres import pgoutput
from instep_connectors.postgres.catalog import Catalog
from instep_connectors.postgres.snapshot import parse_copy_line
from instep_schemas.rowcode import Tuple
from instep_schemas.wire import WireOptions

FOLDER = Path(__file__).parent.parent / "golden"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))

_SKIPPABLE = {"c": Op.CREATE, "u": Op.UPDATE, "d": Op.DELETE, "t": Op.TRUNCATE}
_TABLES = """
SELECT c.oid::bigint, n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname NOT IN ('pg_catalog', 'information_schema')
ORDER BY n.nspname, c.relname"""


_TEXT_TYPE = """
CREATE TYPE {0};
CREATE FUNCTION {0}_in(cstring) RETURNS {0} LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION {0}_out({0}) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE TYPE {0} (INPUT = {0}_in, OUTPUT = {0}_out, LIKE = text, CATEGORY = 'S', COLLATABLE = true);
CREATE CAST ({0} AS text) WITHOUT FUNCTION AS IMPLICIT"""
_STAND_INS = {
    "CREATE EXTENSION citext": _TEXT_TYPE.format("citext"),
    "CREATE EXTENSION hstore": _TEXT_TYPE.format("hstore"),
    # without hstore's own input function, its output form is what has to be written
    r"""'a=>1, b=>NULL, "c d"=>"x\"y"'""": r"""'"a"=>"1", "b"=>NULL, "c d"=>"x\"y"'""",
    """'k=>""'""": """'"k"=>""'""",
    "c_xml xml": "c_xml text",
}
"""The embedded PostgreSQL has neither contrib extensions nor libxml: types of the same text stand in for theirs."""
_XML = Type(142, "pg_catalog", "xml")


def load(name: str) -> dict[str, Any]:
    case: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    for steps in (case["ddl"], case["seed"], case["dml"]):
        steps[:] = [_stand_in(step) if isinstance(step, str) else step for step in steps]
    return case


def _stand_in(statement: str) -> str:
    for extension, replacement in _STAND_INS.items():
        statement = statement.replace(extension, replacement)
    return statement


def options_of(case: dict[str, Any]) -> WireOptions:
    """Debezium's settings of a case as ours."""
    config = case["config"]
    mask = [(value, int(name.split(".")[3])) for name, value in config.items() if name.startswith("column.mask.with.")]
    cut = [(value, int(name.split(".")[3])) for name, value in config.items() if name.startswith("column.truncate.to.")]
    return WireOptions(
        source=case["topic_prefix"],
        database=case["database"],
        profile="debezium",
        decimals=config.get("decimal.handling.mode", "precise"),
        times=config.get("time.precision.mode", "adaptive"),
        binary=config.get("binary.handling.mode", "bytes"),
        tombstones=config.get("tombstones.on.delete") != "false",
        transactions=config.get("provide.transaction.metadata") == "true",
        exclude=tuple(filter(None, config.get("column.exclude.list", "").split(","))),
        mask=tuple(mask),
        truncate=tuple(cut),
    )


@dataclass
class Seen:
    """One change as our encoder gets it."""

    relation: Relation
    op: Op
    before: Tuple | None
    after: Tuple | None


@dataclass
class Replay:
    """Runs one case; `changes` by topic in order, `relations` by topic in order of their first row."""

    case: dict[str, Any]
    dsn: str
    changes: dict[str, list[Seen]] = field(default_factory=dict)
    relations: dict[str, list[Relation]] = field(default_factory=dict)
    _current: dict[int, Relation] = field(default_factory=dict)
    _messages: dict[int, pgoutput.RelationMessage] = field(default_factory=dict)

    def run(self) -> None:
        config = self.case["config"]
        root = config.get("publish.via.partition.root", "false")
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            for statement in (*self.case["ddl"], *self.case["seed"]):
                conn.execute(statement)
            conn.execute(f"CREATE PUBLICATION golden FOR ALL TABLES WITH (publish_via_partition_root = {root})")
            slot = f"golden_{conn.info.dbname}"
            conn.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))
            try:
                if config.get("snapshot.mode") != "no_data":
                    self.snapshot(conn)
                self._steps(conn, slot)
            finally:
                conn.execute("SELECT pg_drop_replication_slot(%s)", (slot,))

    def _steps(self, conn: psycopg.Connection[Any], slot: str) -> None:
        running = True
        for step in self.case["dml"]:
            if isinstance(step, dict):
                running = (running and "stop" not in step) or "resume" in step
                if "sleep" in step and self.case["config"].get("signal.data.collection"):
                    self._drain(conn, slot)
                    self.snapshot(conn, except_for=self.case["config"]["signal.data.collection"])
            else:
                self._execute(conn, [step] if isinstance(step, str) else step)
            if running:
                self._drain(conn, slot)
        self._drain(conn, slot)

    def _execute(self, conn: psycopg.Connection[Any], statements: list[str]) -> None:
        try:
            with conn.transaction():
                for statement in statements:
                    conn.execute(statement)
        except psycopg.Error:
            if not self.case.get("sql_errors"):
                raise

    def snapshot(self, conn: psycopg.Connection[Any], except_for: str = "") -> None:
        tables = [row for row in conn.execute(_TABLES).fetchall() if f"{row[1]}.{row[2]}" != except_for]
        relations = Catalog(conn).relations({row[0]: None for row in tables})
        for oid, schema, name in tables:
            relation = _as_debezium(relations[oid], conn)
            columns = ", ".join('"' + column.name.replace('"', '""') + '"' for column in relation.columns)
            query = f'COPY (SELECT {columns} FROM "{schema}"."{name}" ORDER BY 1) TO STDOUT'
            with conn.cursor() as cursor, cursor.copy(query) as copy:
                for line in copy:
                    self._add(relation, Op.READ, None, parse_copy_line(bytes(line)))

    def _drain(self, conn: psycopg.Connection[Any], slot: str) -> None:
        query = (
            "SELECT data FROM pg_logical_slot_get_binary_changes(%s, NULL, NULL, "
            "'proto_version', '1', 'publication_names', 'golden')"
        )
        for (data,) in conn.execute(query, (slot,)).fetchall():
            self._feed(conn, pgoutput.decode(bytes(data)))

    def _feed(self, conn: psycopg.Connection[Any], message: pgoutput.Message) -> None:
        match message:
            case pgoutput.RelationMessage() if self._messages.get(message.oid) != message:
                # each call of the SQL function describes the tables again; a real session does so once
                self._messages[message.oid] = message
                self._current[message.oid] = _as_debezium(Catalog(conn).joined(message), conn)
            case pgoutput.Insert():
                self._add(self._current[message.oid], Op.CREATE, None, message.new)
            case pgoutput.Update():
                self._add(self._current[message.oid], Op.UPDATE, message.old, message.new)
            case pgoutput.Delete():
                self._add(self._current[message.oid], Op.DELETE, message.old, None)
            case pgoutput.Truncate():
                for oid in message.oids:
                    self._add(self._current[oid], Op.TRUNCATE, None, None)

    def _add(self, relation: Relation, op: Op, before: Tuple | None, after: Tuple | None) -> None:
        skipped = self.case["config"].get("skipped.operations", "t").split(",")
        if any(_SKIPPABLE.get(letter) is op for letter in skipped):
            return
        topic = data_topic(self.case["topic_prefix"], relation.schema, relation.name)
        self.changes.setdefault(topic, []).append(Seen(relation, op, before, after))
        known = self.relations.setdefault(topic, [])
        if relation not in known:
            known.append(relation)


def _as_debezium(relation: Relation, conn: psycopg.Connection[Any]) -> Relation:
    """The relation as Debezium sees it.

    Its Kafka key is the primary key even where the replica identity is another index; ours is not.
    """
    columns = tuple(replace(each, type=_XML) if each.name == "c_xml" else each for each in relation.columns)
    relation = replace(relation, columns=columns)
    primary = conn.execute(
        "SELECT array_agg(a.attname::text ORDER BY k.place) FROM pg_index i, "
        "unnest(i.indkey[0:i.indnkeyatts-1]) WITH ORDINALITY k(num, place) "
        "JOIN pg_attribute a ON a.attnum = k.num WHERE a.attrelid = i.indrelid AND i.indrelid = %s AND i.indisprimary",
        (relation.oid,),
    ).fetchone()
    if primary is None or primary[0] is None:
        known = Catalog(conn).relations({relation.oid: None}).get(relation.oid)
        return replace(relation, key=known.key) if known else relation
    return replace(relation, key=tuple(primary[0]))


def expected_by_topic(case: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The recorded records, per topic in offset order."""
    topics: dict[str, list[dict[str, Any]]] = {}
    for record in case["records"]:
        topics.setdefault(record["topic"], []).append(record)
    yield from topics.items()
