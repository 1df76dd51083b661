"""The short way writes what the long way writes, and leaves to it whatever is not ordinary."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instep.change import Op, Position
from instep.relation import Column, Relation, ReplicaIdentity, Type
from instep_connectors.postgres import pgoutput
from instep_connectors.postgres.replication import Keepalive
from instep_schemas import built
from instep_schemas.encode import compile_encoder
from instep_schemas.envelope import SourceBlock
from instep_schemas.wire import Hash, WireOptions
from instep_streams.capture.batch import Batch, Headers
from instep_streams.capture.bulk import Bulk
from instep_streams.capture.deadletters import DeadLetters
from instep_streams.capture.snapshotting import marked, marked_together
from instep_streams.capture.tables import CapturedTable
from instep_streams.capture.task import Parts
from instep_streams.capture.transactions import Transactions

OID = 0x4142
LARGEST = 300
COLUMNS = (
    Column("id", Type(20, "pg_catalog", "int8"), not_null=True, identity=True),
    Column("name", Type(25, "pg_catalog", "text"), not_null=True),
    Column("note", Type(25, "pg_catalog", "text")),
    Column("amount", Type(1700, "pg_catalog", "numeric"), ((12 << 16) | 2) + 4),
    Column("active", Type(16, "pg_catalog", "bool")),
    Column("seen", Type(1184, "pg_catalog", "timestamptz")),
)
TEXTUAL = (Column("code", Type(25, "pg_catalog", "text"), not_null=True, identity=True), *COLUMNS[1:])
TABLES = {
    "number": Relation(OID, "public", "t", COLUMNS, ("id",), ReplicaIdentity.DEFAULT, True),
    "text": Relation(OID, "public", "t", TEXTUAL, ("code",), ReplicaIdentity.DEFAULT, True),
    "keyless": Relation(OID, "public", "t", COLUMNS, (), ReplicaIdentity.NOTHING),
    "other key": Relation(OID, "public", "t", COLUMNS, ("name",), ReplicaIdentity.DEFAULT),
}
OPTIONS = {
    "native": WireOptions("shop", "db"),
    "debezium": WireOptions("shop", "db", profile="debezium"),
    "no tombstones": WireOptions("shop", "db", profile="debezium", tombstones=False),
    "hidden": WireOptions(
        "shop",
        "db",
        exclude=(r"public\.t\.note",),
        mask=((r"public\.t\.name", 3),),
        hashed=((r"public\.t\.amount", Hash("sha256", "salt")),),
    ),
}
HEADERS: Headers = [("__debezium.context.task", b"0")]

Value = bytes | None | str
"""A value as it stands in a message; `u`: unchanged."""


def row(values: Sequence[Value]) -> bytes:
    """A TupleData."""
    texts = [
        b"n" if value is None else b"u" if isinstance(value, str) else b"t" + struct.pack(">I", len(value)) + value
        for value in values
    ]
    return struct.pack(">h", len(values)) + b"".join(texts)


def message(kind: str, values: Sequence[Value], old: Sequence[Value]) -> bytes:
    """A row message; the kinds are those of `KINDS`."""
    oid = struct.pack(">I", OID)
    key = [value if index == 0 else None for index, value in enumerate(old)]
    return {
        "insert": b"I" + oid + b"N" + row(values),
        "update": b"U" + oid + b"N" + row(values),
        "key": b"U" + oid + b"K" + row(key) + b"N" + row(values),
        "full": b"U" + oid + b"O" + row(old) + b"N" + row(values),
        "delete": b"D" + oid + b"K" + row(key),
        "whole": b"D" + oid + b"O" + row(old),
    }[kind]


KINDS = ("insert", "update", "key", "full", "delete", "whole")
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=130).map(str.encode)
VALUES = st.tuples(
    st.integers(-(2**63), 2**63 - 1).map(lambda number: b"%d" % number),
    TEXT | st.just(b"x" * 290),
    st.none() | TEXT | st.just("u"),
    st.none() | st.decimals(-(10**9), 10**9, places=2).map(lambda d: str(d).encode()) | st.sampled_from([b"NaN", b"1"]),
    st.none() | st.sampled_from([b"t", b"f", b"?"]),
    st.none() | st.sampled_from([b"2026-11-24 20:00:00+00", b"2026-11-24 20:00:00.5+00", b"infinity", b""]),
)
CHANGES = st.lists(st.tuples(st.sampled_from(KINDS), VALUES, VALUES), min_size=1, max_size=12)


class Frames:
    """Frames that are there already."""

    def __init__(self, frames: Sequence[tuple[int, bytes]]) -> None:
        self._frames = iter(frames)
        self.frame_lsn = 0

    def receive(self) -> bytes | Keepalive | None:
        self.frame_lsn, frame = next(self._frames, (self.frame_lsn, None))
        return frame


def made_parts(options: WireOptions, headers: Headers | None = None) -> Parts:
    dead = DeadLetters("shop", 3, LARGEST)
    return Parts(cast(Any, None), cast(Any, None), cast(Any, None), options, dead, 1, LARGEST, headers=headers)


def captured(relation: Relation, options: WireOptions) -> CapturedTable:
    key_id = 1 if relation.key else None
    encoder = compile_encoder(relation, options, key_id, 2)
    return CapturedTable("public.t", "shop.public.t", 2, encoder, frozenset({2, key_id or 2}))


def machine(relation: Relation, options: WireOptions, headers: Headers | None) -> Transactions:
    table = captured(relation, options)
    parts = made_parts(options, headers)
    return Transactions(parts, lambda message, /, *, keyed=True: table, lambda table, column: table, None)


def begin(machine: Transactions, relation: Relation) -> None:
    columns = tuple(pgoutput.RelationColumn(c.name, c.type.oid, c.modifier, 0) for c in relation.columns)
    machine.feed(pgoutput.Begin(1 << 33, 1_700_000_000_000_000, 5), 0)
    machine.feed(pgoutput.RelationMessage(OID, "public", "t", "d", columns), 0)


def short(machine: Transactions, frames: Frames) -> Iterator[bytes]:
    """Let everything through as the stream does; gives what took the long way."""
    while (frame := machine.rows(frames, 1_000, 1 << 20)) is not None:
        assert isinstance(frame, bytes)
        yield frame
        machine.feed(pgoutput.decode(frame), frames.frame_lsn)


def seen(batch: Batch) -> dict[str, Any]:
    state = {name: getattr(batch, name) for name in Batch.__slots__}
    return state | {"records": [tuple(record) for record in batch.records]}


@pytest.fixture(autouse=True, params=["", "1"], ids=["as built", "pure"])
def transcoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything holds for the compiled one, where it is there, and for Python."""
    monkeypatch.setenv(built.PURE, request.param)


@pytest.fixture(autouse=True)
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dead letters say when they were written."""
    monkeypatch.setattr("instep_streams.capture.deadletters.time.time_ns", lambda: 1_700_000_000 * 10**9)


@settings(max_examples=60, deadline=None)
@given(
    relation=st.sampled_from(list(TABLES.values())), options=st.sampled_from(list(OPTIONS.values())),
    headers=st.sampled_from([None, HEADERS]), changes=CHANGES,
)  # fmt: skip
def test_both_ways_give_the_same_batch(
    relation: Relation, options: WireOptions, headers: Headers | None, changes: list[Any]
) -> None:
    if options.exclude and relation.key == ("name",):
        options = OPTIONS["debezium"]  # the native profile refuses to mask a key
    frames = [(1 << 33 | 5_000 * n, message(*change)) for n, change in enumerate(changes)]
    left, right = machine(relation, options, headers), machine(relation, options, headers)
    for each in (left, right):
        begin(each, relation)
    for lsn, frame in frames:
        left.feed(pgoutput.decode(frame), lsn)
    list(short(right, Frames(frames)))
    assert seen(right.batch) == seen(left.batch)


PLAIN: tuple[Value, ...] = (b"1", b"a", None, b"1.50", b"t", b"2026-11-24 20:00:00+00")


@pytest.mark.parametrize(
    ("kind", "values", "goes_short"),
    [
        ("insert", PLAIN, True),
        ("update", PLAIN, True),
        ("delete", PLAIN, True),
        ("whole", PLAIN, True),
        ("key", PLAIN, False),
        ("full", PLAIN, False),
        ("insert", (*PLAIN[:3], b"NaN", *PLAIN[4:]), False),
        ("update", (*PLAIN[:2], "u", *PLAIN[3:]), False),
        ("insert", (b"1", b"x" * 290, *PLAIN[2:]), False),
        ("insert", PLAIN[:5], False),
    ],
)
def test_only_what_is_ordinary_goes_short(kind: str, values: tuple[Value, ...], goes_short: bool) -> None:
    stream = machine(TABLES["number"], OPTIONS["native"], None)
    begin(stream, TABLES["number"])
    frame = message(kind, values, PLAIN)
    assert stream.rows(Frames([(1 << 33, frame)]), 10, 1 << 20) == (None if goes_short else frame)
    assert stream.batch.changes == goes_short


def test_nothing_goes_short_outside_of_a_transaction_or_behind_a_new_description() -> None:
    stream = machine(TABLES["number"], OPTIONS["native"], None)
    begin(stream, TABLES["number"])
    stream.feed(pgoutput.Commit(1 << 33, 1 << 34, 0), 0)
    frame = message("insert", PLAIN, PLAIN)
    assert stream.rows(Frames([(1 << 33, frame)]), 10, 1 << 20) == frame
    begin(stream, TABLES["number"])
    stream._captured(OID, None)
    assert stream.rows(Frames([(1 << 33, frame)]), 10, 1 << 20) == frame


@pytest.mark.parametrize(("most_changes", "most_bytes"), [(2, 1 << 20), (100, 200)])
def test_a_full_batch_takes_no_more(most_changes: int, most_bytes: int) -> None:
    stream = machine(TABLES["number"], OPTIONS["native"], None)
    begin(stream, TABLES["number"])
    frames = Frames([(1 << 33, message("insert", PLAIN, PLAIN))] * 5)
    assert stream.rows(frames, most_changes, most_bytes) is None
    assert stream.batch.changes == 2
    assert len(stream.take().records) == 2
    assert stream.rows(frames, 100, 1 << 20) is None
    assert stream.batch.changes == 3
    assert stream.batch.first is not None
    assert stream.batch.first.seq == 2


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_copied_rows_are_written_as_one_by_one(options: WireOptions) -> None:
    rows = [cast("tuple[bytes | None, ...]", (b"%d" % n, *PLAIN[1:])) for n in range(4)]
    rows[1:1] = [(*rows[0][:3], b"NaN", *rows[0][4:]), (b"1", b"x" * 290, *rows[0][2:])]
    source, batches = SourceBlock(options, committed_us=5, transaction=None, snapshot="true"), []
    for together in (True, False):
        table, bulk = captured(TABLES["number"], options), Bulk(made_parts(options), Position(1, 1 << 33, 0))
        if together:
            written = bulk.copy(table, rows, source, 1 << 33)
        else:
            written = sum(bulk.add(table, Op.READ, None, row, source, 1 << 33) for row in rows)
        batches.append((seen(bulk.batch) | {"written": written}, bulk.position))
    assert batches[0] == batches[1]


def test_rows_of_a_copy_are_marked() -> None:
    table = captured(TABLES["number"], OPTIONS["native"])
    rows = [(b"%d" % n,) for n in range(6)]
    pieces = [(0, table, rows[:1], None), (1, table, rows[1:3], None), (1, table, rows[3:], None)]
    for mark, expected in (
        (marked_together, ["first", "true", "true", "true", "true", "last"]),
        (marked, ["first", "first_in_data_collection", "true", "true", "true", "last"]),
    ):
        found = [(name, row) for name, _, some, _ in mark(pieces) for row in some]
        assert [name for name, _ in found] == expected
        assert [row for _, row in found] == rows
    for mark in (marked_together, marked):
        assert [(name, list(some)) for name, _, some, _ in mark([(0, table, rows[:1], None)]) if some] == [
            ("last", rows[:1])
        ]
