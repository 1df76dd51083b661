"""Each change of a table: which level allows it, which danger no level sees. The table of the facts, as tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from instep_schemas.compatibility import Level
from instep_schemas.evolution import DANGERS, Change, Kind, changes, column_levels, weakest


def decimal(precision: int, scale: int) -> dict[str, Any]:
    return {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale}


def nullable(avro: Any) -> dict[str, Any]:
    return {"type": ["null", avro], "default": None}


def required(avro: Any, **more: Any) -> dict[str, Any]:
    return {"type": avro, **more}


def labelled(*labels: str) -> dict[str, Any]:
    avro = {
        "type": "string", "connect.name": "io.debezium.data.Enum", "connect.parameters": {"allowed": ",".join(labels)},
    }  # fmt: skip
    return {**nullable(avro), "pg.type": "public.mood", "pg.labels": list(labels)}


def envelope(columns: Mapping[str, Mapping[str, Any]], **attributes: Any) -> str:
    row = {
        "type": "record", "name": "Value", "namespace": "s.public.products",
        "fields": [{"name": name, **field} for name, field in columns.items()], **attributes,
    }  # fmt: skip
    fields = [
        {"name": "before", "type": ["null", row], "default": None},
        {"name": "after", "type": ["null", "s.public.products.Value"], "default": None},
        {"name": "op", "type": "string"},
    ]
    return json.dumps({"type": "record", "name": "Envelope", "namespace": "s.public.products", "fields": fields})


ID = {"id": required("long")}


def between(old: Mapping[str, Any], new: Mapping[str, Any], **more: Any) -> list[Change]:
    return changes(envelope(ID | dict(old)), envelope(ID | dict(new)), **more)


def typed(avro: Any, sql: str) -> dict[str, Any]:
    return nullable(avro) | {"pg.type": sql}


STAMP, MICRO = "io.debezium.time.Timestamp", "io.debezium.time.MicroTimestamp"


def named(avro: str, name: str) -> dict[str, Any]:
    return {"type": avro, "connect.version": 1, "connect.name": name}


CASES = {
    "added nullable": ({}, {"c": nullable("int")}, [(Kind.ADDED, Level.FULL)]),
    "added not null default": ({}, {"c": required("int", default=0)}, [(Kind.ADDED, Level.FULL)]),
    "added not null": ({}, {"c": required("int")}, [(Kind.ADDED, Level.FORWARD)]),
    "dropped nullable": ({"c": nullable("int")}, {}, [(Kind.REMOVED, Level.FULL)]),
    "dropped required": ({"c": required("int")}, {}, [(Kind.REMOVED, Level.BACKWARD)]),
    "int to bigint": (
        {"c": typed("int", "integer")}, {"c": typed("long", "bigint")}, [(Kind.TYPE, Level.BACKWARD)],
    ),
    "bigint to int": (
        {"c": typed("long", "bigint")}, {"c": typed("int", "integer")}, [(Kind.TYPE, Level.FORWARD)],
    ),
    "real to double": (
        {"c": typed("float", "real")}, {"c": typed("double", "double precision")},
        [(Kind.TYPE, Level.BACKWARD), (Kind.REWRITTEN, Level.BACKWARD)],
    ),
    "int to text": ({"c": typed("int", "integer")}, {"c": typed("string", "text")}, [(Kind.TYPE, Level.NONE)]),
    "text to int": (
        {"c": typed("string", "text")}, {"c": typed("int", "integer")},
        [(Kind.TYPE, Level.NONE), (Kind.REWRITTEN, Level.NONE)],
    ),
    "varchar to text": (
        {"c": typed("string", "character varying(20)")}, {"c": typed("string", "text")}, [(Kind.TYPE, Level.FULL)],
    ),
    "precision": (
        {"c": typed(decimal(10, 2), "numeric(10,2)")}, {"c": typed(decimal(12, 2), "numeric(12,2)")},
        [(Kind.PRECISION, Level.FULL)],
    ),
    "scale": (
        {"c": typed(decimal(12, 2), "numeric(12,2)")}, {"c": typed(decimal(12, 4), "numeric(12,4)")},
        [(Kind.SCALE, Level.FULL)],
    ),
    "millis to micros": (
        {"c": typed(named("long", STAMP), "timestamp(3) without time zone")},
        {"c": typed(named("long", MICRO), "timestamp without time zone")},
        [(Kind.LOGICAL, Level.FULL)],
    ),
    "timestamp to timestamptz": (
        {"c": typed(named("long", MICRO), "timestamp without time zone")},
        {"c": typed(named("string", "io.debezium.time.ZonedTimestamp"), "timestamp with time zone")},
        [(Kind.TYPE, Level.NONE), (Kind.REWRITTEN, Level.NONE)],
    ),
    "text to timestamptz": (
        {"c": typed("string", "text")},
        {"c": typed(named("string", "io.debezium.time.ZonedTimestamp"), "timestamp with time zone")},
        [(Kind.LOGICAL, Level.FULL), (Kind.REWRITTEN, Level.FULL)],
    ),
    "label added": ({"c": labelled("a", "b")}, {"c": labelled("a", "b", "x")}, [(Kind.LABEL_ADDED, Level.FULL)]),
    "label in between": ({"c": labelled("a", "b")}, {"c": labelled("a", "x", "b")}, [(Kind.LABEL_ADDED, Level.FULL)]),
    "label removed": ({"c": labelled("a", "b")}, {"c": labelled("a")}, [(Kind.LABEL_REMOVED, Level.FULL)]),
    "labels swapped": ({"c": labelled("a", "b")}, {"c": labelled("b", "a")}, [(Kind.LABEL_ORDER, Level.FULL)]),
    "set not null": ({"c": nullable("int")}, {"c": required("int")}, [(Kind.NOT_NULL, Level.FORWARD)]),
    "drop not null": ({"c": required("int")}, {"c": nullable("int")}, [(Kind.NULLABLE, Level.BACKWARD)]),
    "default": (
        {"c": required("int", default=1)}, {"c": required("int", default=2)}, [(Kind.DEFAULT, Level.FULL)],
    ),
    "order": (
        {"c": nullable("int"), "d": nullable("long")}, {"d": nullable("long"), "c": nullable("int")},
        [(Kind.MOVED, Level.FULL)],
    ),
    "tag lost": (
        {"c": nullable("int") | {"confluent:tags": ["PII"]}}, {"c": nullable("int")}, [(Kind.TAG, Level.FULL)],
    ),
    "tag gained": ({"c": nullable("int")}, {"c": nullable("int") | {"confluent:tags": ["PII"]}}, []),
    "nothing": ({"c": nullable("int")}, {"c": nullable("int")}, []),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_a_change_is_and_which_level_allows_it(case: str) -> None:
    old, new, wanted = CASES[case]
    found = between(old, new)
    assert [(each.kind, each.level) for each in found] == wanted
    for each in found:
        assert each.danger == (each.kind in DANGERS)
        assert not each.danger or (each.why and each.rewrite), "a danger says why, and what to do instead"


def test_a_rename_passes_every_level_and_is_named() -> None:
    old, new = {"name": nullable("string")}, {"title": nullable("string")}
    assert column_levels(envelope(ID | old), envelope(ID | new)) == {}
    (guessed,) = between(old, new)
    assert (guessed.kind, guessed.old, guessed.new, guessed.level) == (
        Kind.RENAME_SUSPECTED, "name", "title", Level.FULL,
    )  # fmt: skip
    (known,) = between(old, new, renamed={"name": "title"})
    assert known.kind is Kind.RENAMED and known.danger
    # the catalog says that it is none: the old one was dropped, a new one added
    assert [each.kind for each in between(old, new, renamed={})] == [Kind.REMOVED, Kind.ADDED]


def test_a_rename_with_another_type_is_both() -> None:
    found = between({"a": typed("int", "integer")}, {"b": typed("long", "bigint")}, renamed={"a": "b"})
    assert [each.kind for each in found] == [Kind.RENAMED, Kind.TYPE]


def test_two_candidates_are_no_rename() -> None:
    found = between({"a": nullable("int")}, {"b": nullable("int"), "c": nullable("int")})
    assert [each.kind for each in found] == [Kind.REMOVED, Kind.ADDED, Kind.ADDED]


def key(*names: str) -> str:
    fields = [{"name": name, "type": "long"} for name in names]
    return json.dumps({"type": "record", "name": "Key", "namespace": "s.public.products", "fields": fields})


def test_a_key_change_is_a_danger() -> None:
    text = envelope(ID)
    assert changes(text, text, old_key=key("id"), new_key=key("id")) == []
    (found,) = changes(text, text, old_key=key("id"), new_key=key("id", "site"))
    assert (found.kind, found.column, found.old, found.new) == (Kind.KEY, "", "id", "id, site")
    (gone,) = changes(text, text, old_key=key("id"), new_key=None)
    assert gone.new == "none"


def test_an_identity_that_tells_less() -> None:
    columns = ID | {"c": nullable("int")}
    full, own = envelope(columns, **{"pg.identity": ["id", "c"]}), envelope(columns, **{"pg.identity": ["id"]})
    (found,) = changes(full, own)
    assert (found.kind, found.old, found.new) == (Kind.IDENTITY, "c, id", "id")
    assert changes(own, full) == []
    dropped = changes(full, envelope(ID, **{"pg.identity": ["id"]}))
    assert [each.kind for each in dropped] == [Kind.REMOVED]


def test_documents_have_no_envelope() -> None:
    def documents(avro: Any) -> str:
        fields = [{"name": "n", "type": ["null", avro], "default": None}]
        return json.dumps({"type": "record", "name": "Value", "namespace": "flow.card", "fields": fields})

    (found,) = changes(documents("int"), documents("long"))
    assert (found.column, found.kind, found.level) == ("n", Kind.TYPE, Level.BACKWARD)
    with pytest.raises(ValueError, match="not a record"):
        changes('"string"', documents("int"))


@pytest.mark.parametrize(
    ("levels", "left"),
    [
        ([], Level.FULL),
        ([Level.FULL, Level.BACKWARD], Level.BACKWARD),
        ([Level.FORWARD, Level.FULL], Level.FORWARD),
        ([Level.FORWARD, Level.BACKWARD], Level.NONE),
    ],
)
def test_the_weakest_level(levels: list[Level], left: Level) -> None:
    assert weakest(levels) is left


def test_words_for_people() -> None:
    (found,) = between(*CASES["scale"][:2])
    assert str(found) == "c: scale (numeric(12,2) → numeric(12,4))"
    assert "off by 100" in found.why
    assert found.first == "any order"
    assert found.to_dict()["danger"] is True
