"""Every value that PostgreSQL can store arrives as the store itself prints it: copied, streamed, and as an old row."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Sequence
from ctypes import c_float
from itertools import pairwise
from typing import Any, NamedTuple

import psycopg
from tests.schemas.bythedocs import Reader
from tests.streams.capture.anytype import BASE, WITHOUT_VALUES, arrays, drawn, literal
from tests.streams.capture.conftest import MakeShop
from tests.streams.capture.harness import Shop
from tests.streams.capture.test_copies import await_copies

from instep.change import Op, Value
from instep_schemas.client import RegistryClient
from instep_schemas.literals import parse_array
from instep_schemas.records import unframe
from instep_streams.capture.recovery import recover
from instep_streams.capture.task import Task

ROWS = 12
"""In each table, of each source."""
SEED = int(os.environ.get("LOSSLESS", "0"))
"""Another number draws other values."""
PRINTED = (
    "SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET timezone = 'UTC'; SET bytea_output = 'hex';"
    "SET extra_float_digits = 1; SET search_path = pg_catalog"
)

OWN = (
    "CREATE TYPE mood AS ENUM ('sad', 'it''s, fine')",
    "CREATE TYPE address AS (street text, numbers int[], at timestamp)",
    "CREATE DOMAIN price AS numeric(8,3)",
    "CREATE DOMAIN grid AS int[]",
    "CREATE TYPE floats AS RANGE (subtype = float8)",
    "CREATE TYPE label",
    "CREATE FUNCTION label_in(cstring) RETURNS label AS 'textin' LANGUAGE internal IMMUTABLE STRICT",
    "CREATE FUNCTION label_out(label) RETURNS cstring AS 'textout' LANGUAGE internal IMMUTABLE STRICT",
    "CREATE TYPE label (INPUT = label_in, OUTPUT = label_out, LIKE = text)",
)
_EXTENSIONS = {
    "hstore": ['"a"=>"1", "b\\\\"=>NULL', "", '"k"=>"\\"q\\""'],
    "citext": ["AbC", "__debezium_unavailable_value"],
    "ltree": ["Top.Science", ""],
}
_MOODS = ["sad", "it's, fine"]
_ADDRESSES = ['("Main ""St""","{1,2}",infinity)', "(,,)", '("",{},"4713-01-01 00:00:00 BC")']
_GRIDS = ["{}", "{{1,2},{3,4}}", "[0:1]={5,NULL}"]
_PARAMETRIC = {
    "numeric(12,2)": ["NaN", "1.50", "-9999999999.99"],
    "numeric(3,-2)": ["12300", "NaN"],
    "numeric(4,2)[]": ["{{1.5,NaN}}", "{NaN,NULL,-0.01}", "{1.50}"],
    "timestamp(3)": ["294276-12-31 23:59:59.999", "-infinity", "0001-12-31 00:00:00.5 BC"],
    "timestamp(0)[]": ["{294276-12-31 23:59:59}", "{{infinity}}"],
    "time(2)": ["24:00:00", "12:34:56.78"],
    "timestamptz(1)": ["12024-01-01 00:00:00.1+00"],
    "bit(3)": ["101"],
    "bit(1)": ["1"],
    "varchar(40)": ["__debezium_unavailable_value"],
    "char(5)": ["ab"],
}


class Column(NamedTuple):
    """A column of a type, and SQL expressions of its values."""

    type: str
    values: Sequence[str]


def _literals(sql_type: str, texts: Sequence[str]) -> Column:
    return Column(sql_type, [f"{literal(text)}::{sql_type}" for text in texts])


def columns_of(conn: psycopg.Connection) -> dict[str, list[Column]]:
    """Tables by name: of all base types, of arrays of them, of ranges and multiranges, of types people make."""
    query = "SELECT {} FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND {} ORDER BY oid"
    names = conn.execute(query.format("typname, typdelim", "typtype = 'b' AND typarray <> 0")).fetchall()
    assert {name for name, _ in names} - WITHOUT_VALUES <= BASE.keys(), "types that no value is drawn for"
    luck, without = random.Random(SEED), WITHOUT_VALUES if has_xml(conn) else WITHOUT_VALUES | {"xml"}
    texts = {name: drawn(name, ROWS, luck) for name, _ in names if name not in without}
    delimiters: dict[str, str] = dict(names)
    base = [_literals(f'pg_catalog."{name}"', found) for name, found in texts.items()]
    lists = [
        _literals(f'pg_catalog."{name}"[]', arrays(found, delimiters[name], ROWS, luck))
        for name, found in texts.items()
    ]
    ranges = [
        column
        for name, multi, subtype in conn.execute(
            "SELECT rngtypid::regtype::text, rngmultitypid::regtype::text, t.typname"
            " FROM pg_range JOIN pg_type t ON t.oid = rngsubtype"
        ).fetchall()
        for column in _ranges(name, multi, subtype, [text for text in texts[subtype] if text != "NaN"])
    ]
    own = [
        _literals("mood", _MOODS), _literals("mood[]", arrays(_MOODS, ",", ROWS, luck)),
        _literals("address", _ADDRESSES), _literals("address[]", arrays(_ADDRESSES, ",", ROWS, luck)),
        _literals("price", ["1.5", "NaN"]), _literals("price[]", arrays(["1.5", "NaN"], ",", ROWS, luck)),
        _literals("label", ["x", "__debezium_unavailable_value", ""]), _literals("grid", _GRIDS),
        *(_literals(name, found) for name, found in _PARAMETRIC.items()),
    ]  # fmt: skip
    own += extension_types(conn, luck)
    return {"base": base, "lists": lists, "ranges": ranges, "own": own}


def extension_types(conn: psycopg.Connection, luck: random.Random) -> list[Column]:
    """Types of the extensions that the server has at hand, and arrays of them."""
    found = []
    for name, texts in _EXTENSIONS.items():
        if conn.execute("SELECT 1 FROM pg_available_extensions WHERE name = %s", (name,)).fetchone():
            conn.execute(f"CREATE EXTENSION {name}")
            found += [_literals(name, texts), _literals(f"{name}[]", arrays(texts, ",", ROWS, luck))]
    return found


def has_xml(conn: psycopg.Connection) -> bool:
    """Whether the server was built with libxml."""
    try:
        return conn.execute("SELECT '<a/>'::xml").rowcount == 1
    except psycopg.errors.FeatureNotSupported:
        return False


def _ranges(name: str, multi: str, subtype: str, texts: list[str]) -> list[Column]:
    """Ranges, multiranges and arrays of both; PostgreSQL puts the ends in order."""
    kind = f'pg_catalog."{subtype}"'
    found = [f"'empty'::{name}", f"{name}(NULL, NULL)", f"{name}(NULL, {literal(texts[0])}::{kind}, '[]')"]
    for one, other in pairwise(texts):
        ends = f"{literal(one)}::{kind}, {literal(other)}::{kind}"
        found.append(f"{name}(least({ends}), greatest({ends}), '{'(['[len(found) % 2]}]')")
    if name in ("daterange", "int4range", "int8range"):  # the end of the last one would be one too many
        found = [each for each in found if not any(edge in each for edge in _LAST)]
    pairs = list(pairwise(found))
    return [
        Column(name, found),
        Column(f"{name}[]", [f"ARRAY[[{one}],[{other}]]" for one, other in pairs]),
        Column(multi, [f"'{{}}'::{multi}", *(f"{multi}({one}, {other})" for one, other in pairs)]),
        Column(f"{multi}[]", [f"ARRAY[{multi}({one}), NULL]" for one, _ in pairs]),
    ]


_LAST = ("5874897-12-31", "2147483647", "9223372036854775807")


def test_a_value_of_every_type_is_the_stores_text_wherever_it_arrives(make_shop: MakeShop) -> None:
    shop = make_shop(*OWN)
    with shop.store() as conn:
        tables = columns_of(conn)
        for table, columns in tables.items():
            fill(conn, table, columns)
    numbers = range(ROWS)
    expected = {table: [(Op.READ, number) for number in numbers] for table in tables}
    with shop.capturing() as running:
        for table, columns in tables.items():
            copy_rows(shop, table, columns, ROWS, ROWS)
        printed = {table: rows_of(shop, table) for table in tables}
        shop.execute(*(f"DELETE FROM {table} WHERE id >= {ROWS}" for table in tables))
        shop.await_captured(running)
        for table in tables:
            expected[table] += [(op, ROWS + number) for op in (Op.CREATE, Op.DELETE) for number in numbers]
        shop.ask("run", "public.lists")  # an incremental snapshot
        await_copies(shop)
        expected["lists"] += [(Op.READ, number) for number in numbers]
        audit = shop.audit()
    assert (audit.problems, audit.rejected) == ([], 0)
    shop.drop_slot()
    copy_rows(shop, "lists", tables["lists"], 100, 3)
    recovered = recover(Task(shop.settings, shop.name, threading.Event().wait))
    assert recovered.tables["public.lists"] == {"equal": ROWS, "reads": 3, "deletes": 0, "rejected": 0}
    assert recovered.tables["public.own"]["equal"] == ROWS
    expected["lists"] += [(Op.READ, 100 + number) for number in range(3)]
    printed["lists"] |= rows_of(shop, "lists")
    for table, columns in tables.items():
        read_as_documented(shop, table, printed[table])
        rows = arrived(shop, table)
        differ(columns, rows, printed[table])
        assert sorted((op, int(name)) for op, name, _ in rows) == sorted(expected[table])


def fill(conn: psycopg.Connection, table: str, columns: Sequence[Column]) -> None:
    """Make a table, and its rows 0 to ROWS."""
    named = ", ".join(f"c{number} {column.type}" for number, column in enumerate(columns))
    conn.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, {named})")
    conn.execute(f"ALTER TABLE {table} REPLICA IDENTITY FULL")
    for row in range(ROWS):
        values = ", ".join(column.values[row % len(column.values)] for column in columns)
        conn.execute(f"INSERT INTO {table} VALUES ({row}, {values})")


def copy_rows(shop: Shop, table: str, columns: Sequence[Column], behind: int, count: int) -> None:
    """Insert the first rows again, under ids that are so much higher."""
    names = ", ".join(f"c{number}" for number in range(len(columns)))
    shop.execute(f"INSERT INTO {table} SELECT id + {behind}, {names} FROM {table} WHERE id < {count}")


def rows_of(shop: Shop, table: str) -> dict[str, list[str | None]]:
    """What the store itself prints, by id."""
    with shop.store() as conn:
        conn.execute(PRINTED)
        found = conn.pgconn.exec_(f"SELECT * FROM public.{table}".encode())
        cells = [[found.get_value(row, at) for at in range(found.nfields)] for row in range(found.ntuples)]
    texts = [[None if cell is None else bytes(cell).decode() for cell in row] for row in cells]
    return {str(row[0]): row[1:] for row in texts}


def read_as_documented(shop: Shop, table: str, printed: dict[str, list[str | None]]) -> None:
    """What a reader makes of the records who knows nothing but the documentation."""
    readers: dict[int, Reader] = {}
    with RegistryClient(shop.settings.registry.url) as registry:
        for record in shop.records(f"public.{table}"):
            if record.value is None:
                continue
            schema_id, body = unframe(record.value)
            if schema_id not in readers:
                readers[schema_id] = Reader(registry.schema(schema_id))
            images = readers[schema_id].read(body, record.headers)
            (row,) = [each for each in images.values() if each is not None]
            values = [value for name, value in row.items() if name != "id"]
            assert [
                f"{text!r} read as {value!r}"
                for value, text in zip(values, printed[row["id"]], strict=True)
                if not agrees(value, text)
            ] == []


def agrees(value: Any, text: str | None) -> bool:
    """Whether a value is PostgreSQL's text; floats are compared as such, arrays by their items."""
    if isinstance(value, list) and text is not None:
        items = parse_array(text)
        return len(value) == len(items) and all(map(agrees, value, items))
    if isinstance(value, float) and text is not None:
        return repr(value) in (repr(float(text)), repr(c_float(float(text)).value))
    return bool(value == text)


def arrived(shop: Shop, table: str) -> list[tuple[Op, str, list[Value]]]:
    """The rows of the topic: operation, id, values."""
    found = []
    for _, envelope in shop.changes(f"public.{table}"):
        if envelope is not None:
            row = envelope.after or envelope.before or {}
            found.append((envelope.op, str(row["id"]), [row[name] for name in row if name != "id"]))
    return found


def differ(
    columns: Sequence[Column], rows: Sequence[tuple[Op, str, list[Value]]], printed: dict[str, list[str | None]]
) -> None:
    """Fail with each type whose text arrived otherwise."""
    wrong = [
        f"{op.name} {column.type}: {text!r} came as {value!r}"
        for op, name, values in rows
        for column, value, text in zip(columns, values, printed[name], strict=True)
        if value != text
    ]
    assert not wrong, "\n".join(wrong[:20])
