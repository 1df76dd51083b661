"""The decoder against an encoder written here from the protocol's documentation."""

from __future__ import annotations

from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instep.change import ABSENT
from instep_connectors.postgres import pgoutput as p

U32 = st.integers(0, 2**32 - 1)
LSN = st.integers(0, 2**64 - 1)
MICROS = st.integers(-(2**62), 2**62)
NAME = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
VALUE = st.one_of(st.none(), st.just(ABSENT), st.binary(max_size=40))
ROW = st.lists(VALUE, max_size=8).map(tuple)
COLUMN = st.builds(p.RelationColumn, NAME, U32, st.integers(-(2**31), 2**31 - 1), st.sampled_from([0, 1]))
SCHEMA = NAME.map(lambda name: name or "pg_catalog")

MESSAGES = st.one_of(
    st.builds(p.Begin, LSN, MICROS, U32),
    st.builds(p.Commit, LSN, LSN, MICROS),
    st.builds(p.Origin, LSN, NAME),
    st.builds(p.RelationMessage, U32, SCHEMA, NAME, st.sampled_from("dnfi"), st.lists(COLUMN, max_size=6).map(tuple)),
    st.builds(p.TypeMessage, U32, SCHEMA, NAME),
    st.builds(p.Insert, U32, ROW),
    st.builds(lambda oid, new: p.Update(oid, None, False, new), U32, ROW),
    st.builds(p.Update, U32, ROW, st.booleans(), ROW),
    st.builds(p.Delete, U32, ROW, st.booleans()),
    st.builds(p.Truncate, st.lists(U32, max_size=5).map(tuple), st.booleans(), st.booleans()),
    st.builds(p.LogicalMessage, st.booleans(), LSN, NAME, st.binary(max_size=50)),
    st.builds(p.StreamStart, U32, st.booleans()),
    st.builds(p.StreamStop),
    st.builds(p.StreamCommit, U32, LSN, LSN, MICROS),
    st.builds(p.StreamAbort, U32, U32),
)


def text(value: str) -> bytes:
    return value.encode() + b"\0"


def schema(value: str) -> bytes:
    return text("" if value == "pg_catalog" else value)


def row(values: p.RawRow) -> bytes:
    out = pack(">h", len(values))
    for value in values:
        if value is None:
            out += b"n"
        elif isinstance(value, bytes):
            out += b"t" + pack(">I", len(value)) + value
        else:
            out += b"u"
    return out


def at(micros: int) -> int:
    return micros - p.PG_EPOCH_US


def encode(message: p.Message, xid: bytes = b"") -> bytes:
    match message:
        case p.Begin(lsn, committed, number):
            return b"B" + pack(">QqI", lsn, at(committed), number)
        case p.Commit(lsn, end, committed):
            return b"C" + pack(">BQQq", 0, lsn, end, at(committed))
        case p.Origin(lsn, name):
            return b"O" + pack(">Q", lsn) + text(name)
        case p.RelationMessage(oid, namespace, name, identity, columns):
            body = b"".join(bytes([c.flags]) + text(c.name) + pack(">Ii", c.type_oid, c.modifier) for c in columns)
            head = b"R" + xid + pack(">I", oid) + schema(namespace) + text(name)
            return head + identity.encode() + pack(">h", len(columns)) + body
        case p.TypeMessage(oid, namespace, name):
            return b"Y" + xid + pack(">I", oid) + schema(namespace) + text(name)
        case p.Insert(oid, new):
            return b"I" + xid + pack(">I", oid) + b"N" + row(new)
        case p.Update(oid, old, full, new):
            before = b"" if old is None else (b"O" if full else b"K") + row(old)
            return b"U" + xid + pack(">I", oid) + before + b"N" + row(new)
        case p.Delete(oid, old, full):
            return b"D" + xid + pack(">I", oid) + (b"O" if full else b"K") + row(old)
        case p.Truncate(oids, cascade, restart):
            head = pack(">IB", len(oids), cascade | restart << 1)
            return b"T" + xid + head + b"".join(pack(">I", oid) for oid in oids)
        case p.LogicalMessage(transactional, lsn, prefix, content):
            return b"M" + xid + pack(">BQ", transactional, lsn) + text(prefix) + pack(">I", len(content)) + content
        case p.StreamStart(number, first):
            return b"S" + pack(">IB", number, first)
        case p.StreamStop():
            return b"E"
        case p.StreamCommit(number, lsn, end, committed):
            return b"c" + pack(">IBQQq", number, 0, lsn, end, at(committed))
        case p.StreamAbort(number, sub):
            return b"A" + pack(">II", number, sub)
    raise AssertionError(message)


@given(MESSAGES)
def test_decode_reads_what_the_protocol_says(message: p.Message) -> None:
    assert p.decode(encode(message)) == message


@given(MESSAGES, st.data())
def test_a_message_cut_short_is_an_error_and_never_a_smaller_message(message: p.Message, data: st.DataObject) -> None:
    whole = encode(message)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(p.DecodeError):
        p.decode(whole[:cut])


@given(st.binary(max_size=200))
def test_garbage_is_an_error_or_a_message_but_never_another_exception(data: bytes) -> None:
    try:
        p.decode(data)
    except p.DecodeError:
        pass


def test_an_unknown_message_is_named() -> None:
    with pytest.raises(p.DecodeError, match=r"unknown message b'z'"):
        p.decode(b"z123")


def test_binary_values_are_refused_because_nobody_asked_for_them() -> None:
    with pytest.raises(p.DecodeError, match="kind 0x62"):
        p.decode(b"I\0\0\0\1N\0\1b\0\0\0\1x")
