"""Values for any column: texts that its type reads, few of them, so that rows meet, and what the flows mention."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import Any

from psycopg import Connection
from psycopg.errors import FeatureNotSupported
from tests.streams.flows.difftest.patterns import texts

from instep_streams.flows.catalog import Column, Table

_TEXTS = ("a", "b", "c", "DE", "FR", "open", "done", "Ärzte", "alpha 12", "Zed", "x'y", "50%", "", " b ", "über")
_NUMBERS = ("0", "1", "1.0", "1.00", "2.5", "-3", "9.990", "30.00", "1234567.89", "0.01")
_SMALL = tuple(map(str, (0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 12, 50)))
_TIMES = ("2024-02-29 10:00:00.123456+00", "2024-12-31 23:59:59+00", "2024-05-01 23:30+00", "2023-01-31 00:00:00+05")
_DOCUMENTS = tuple(
    json.dumps(each)
    for each in ({"color": "red", "hot": True}, {"dims": {"w": "9", "h": 1.50}}, {"color": None}, {}, [1, 2])
)
_BY_TYPE: dict[str, tuple[str, ...]] = {
    "smallint": _SMALL,
    "integer": _SMALL,
    "bigint": _SMALL,
    "numeric": _NUMBERS,
    "real": ("0", "1.5", "-2.25", "0.1", "-0", "3", "7.5"),
    "double precision": ("0", "1.5", "-2.25", "0.1", "1e20", "-0", "3", "7.5"),
    "money": ("1.00", "2.50", "0", "-3.00", "99.99", "12.30"),
    "boolean": ("true", "false"),
    "uuid": tuple(f"00000000-0000-4000-8000-00000000000{i}" for i in range(10)),
    "date": tuple(each[:10] for each in _TIMES),
    "timestamp with time zone": _TIMES,
    "timestamp without time zone": tuple(each[:16] for each in _TIMES),
    "time without time zone": (*(each[11:16] for each in _TIMES), "08:15", "12:00", "18:45:30", "00:30"),
    "interval": ("1 mon", "30 days", "1 day 02:00", "-3 hours"),
    "json": _DOCUMENTS,
    "jsonb": _DOCUMENTS,
    "bytea": ("\\x", "\\x00ff", "\\x616263", "\\x01", "\\x02", "\\x03", "\\xff00"),
    "inet": ("10.0.0.1", "10.0.0.0/8", "10.0.0.2", "192.168.1.7", "192.168.1.7/24", "2001:db8::1", "10.0.0.0/16"),
    "cidr": ("10.0.0.0/8", "192.168.1.0/24", "10.0.0.0/16", "2001:db8::/32", "10.0.0.1/32"),
    "macaddr": tuple(f"08:00:2b:01:02:{i:02}" for i in range(9)),
    "text": _TEXTS,
    "character varying": _TEXTS,
    "character": _TEXTS,
}
_ANY = (
    "[1,5)", "[3,9]", "empty", "[2024-01-01,2024-03-01)", "[2024-02-01,)", "{[1,5),[7,9)}", "{[2024-01-01,2024-03-01)}",
    "(1,2)", "((0,0),(1,1))", "<(0,0),1>", "{1,2,3}", "08:00:2b:01:02:03", "08:00:2b:01:02:03:04:05", "101", "1", "0",
    "a:1 b", "a & b", "<a>1</a>", "10.0.0.0/8", "1/AB", "pg_class", "(a,1)", "(1,a)", "(1,2,3)", "(1,1)", "12:00+00",
    "en", "a.b", "1 mon", "10:00", "a@b.c", "A-1", "AB12", "EUR", "+49 30 123", "https://a.b/c", "2024",
)  # fmt: skip
_LITERAL = re.compile(r"'((?:[^']|'')*)'|(?<![\w.$\"])(\d+(?:\.\d+)?)(?![\w.\"])")
_NEAR = 90
_PATTERN = re.compile(r"^\^|\[.+\]|\\[dw]")
_COUNTED = re.compile(r"smallint|integer|bigint|numeric|real|double")


class Values:
    """Draws values for the columns of one store.

    Args:
        conn: the store.
        text: the schema and the flows: what they mention beside a column's name is drawn for it more often.
        size: of the domain of integer keys.
    """

    def __init__(self, conn: Connection[Any], text: str, size: int) -> None:
        self._conn, self._text, self._size = conn, text, size
        self._pools: dict[tuple[str, str], tuple[list[str], list[str]]] = {}

    def draw(self, table: Table, column: Column, rnd: random.Random, *, narrow: bool, key: bool) -> str | None:
        """A text that the column's type reads, None where none is known.

        Args:
            narrow: a constraint names the column, so nearly always what stands beside its name.
            key: rows should meet in it.
        """
        base = column.base or column.sql_type
        mentioned, general = self._pool(table, column)
        if mentioned and rnd.random() < (0.95 if narrow else 0.1 if key else 0.5):
            return rnd.choice(mentioned)
        if key and re.match(r"smallint|integer|bigint", base) and not base.endswith("[]"):
            return str(rnd.randint(1, self._size))
        if column.sql_type.endswith("[]") and general:
            return _array([rnd.choice(general) for _ in range(rnd.randint(0, 3))])
        if column.labels:
            return rnd.choice(column.labels)
        return rnd.choice(general) if general else None

    def _pool(self, table: Table, column: Column) -> tuple[list[str], list[str]]:
        known = self._pools.get((table.id, column.name))
        if known is None:
            sql_type = column.sql_type[:-2] if column.sql_type.endswith("[]") else column.sql_type
            kind = re.sub(r"\([^)]*\)|\[\]", "", column.base or column.sql_type)
            general = self._valid(sql_type, column.labels or _BY_TYPE.get(kind, ()))
            if not general:
                general = self._valid(sql_type, (*_ANY, *_TEXTS, *_TIMES, *_DOCUMENTS, *_SMALL, *_NUMBERS))
            texts = self._mentioned(column, kind)
            mentioned = self._valid(column.sql_type, texts)
            if kind in ("json", "jsonb"):
                mentioned, general = _documents(texts, mentioned, general)
            known = self._pools[table.id, column.name] = (mentioned, general)
        return known

    def _mentioned(self, column: Column, kind: str) -> list[str]:
        found: list[str] = []
        names = [column.name] + ([_bare(column.sql_type)] if column.base is not None else [])
        for place in re.finditer(rf"(?<!\w)(?:{'|'.join(map(re.escape, names))})(?!\w)", self._text):
            for text, number in _LITERAL.findall(self._text[place.end() : place.end() + _NEAR]):
                text = text.replace("''", "'")
                if number:
                    found += _around(number) if _COUNTED.match(kind) else []
                else:
                    found += texts(text, 8) if _PATTERN.search(text) else [text.replace("%", "")]
        return list(dict.fromkeys(found))

    def _valid(self, sql_type: str, texts: Iterable[str]) -> list[str]:
        sql = "SELECT t FROM unnest(%s::text[]) WITH ORDINALITY AS u(t, o) WHERE pg_input_is_valid(t, %s) ORDER BY o"
        try:
            with self._conn.transaction():
                rows = self._conn.execute(sql, (list(texts), sql_type)).fetchall()
        except FeatureNotSupported:  # xml, where the server was built without it
            return []
        return [str(row[0]) for row in rows]


def _around(number: str) -> list[str]:
    try:
        value = Decimal(number)
    except InvalidOperation:
        return []
    return [number, str(value + 1), str(value - 1)] if abs(value) < 10**6 else [number]


def _documents(texts: list[str], mentioned: list[str], general: list[str]) -> tuple[list[str], list[str]]:
    """Documents with the keys that are mentioned; only arrays where an empty one is the default, or only objects."""
    words = [each for each in texts if re.fullmatch(r"[A-Za-z_]\w*", each)]
    objects = [json.dumps({word: value}) for word in words for value in ("a", "b", 3)]
    objects += [json.dumps(dict(zip(words, ("c", 2, True), strict=False)))] if words else []
    if "[]" in mentioned:
        arrays = [f"[{first}]" for first in objects] + [f"[{objects[0]}, {objects[-1]}]"] if objects else ["[1, 2]"]
        return [], ["[]", *arrays]
    if "{}" in mentioned:
        general = [each for each in general if each.startswith("{")]
    return [], [*general, *objects, *mentioned]


def _bare(sql_type: str) -> str:
    """A domain's name without its schema."""
    return sql_type.removesuffix("[]").rsplit(".", 1)[-1].strip('"')


def _array(items: list[str]) -> str:
    return "{" + ",".join('"' + each.replace("\\", "\\\\").replace('"', '\\"') + '"' for each in items) + "}"
