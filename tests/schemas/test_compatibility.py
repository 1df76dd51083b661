"""The seven levels, Avro's resolution rules as a table, and words that name the column."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instep_schemas.compatibility import Level, SchemaFault, can_read, check, parse, parse_leniently


def text(schema: Any) -> str:
    return json.dumps(schema)


def record(*fields: Any, name: str = "R", **more: Any) -> dict[str, Any]:
    made = [{"name": f[0], "type": f[1], **({"default": f[2]} if len(f) > 2 else {})} for f in fields]
    return {"type": "record", "name": name, "fields": made, **more}


def enum(*symbols: str, name: str = "E", **more: Any) -> dict[str, Any]:
    return {"type": "enum", "name": name, "symbols": list(symbols), **more}


def fixed(size: int, name: str = "F", **more: Any) -> dict[str, Any]:
    return {"type": "fixed", "name": name, "size": size, **more}


def array(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


def mapping(values: Any) -> dict[str, Any]:
    return {"type": "map", "values": values}


EMPTY = record()
A_INT, A_LONG, A_DINT = record(("a", "int")), record(("a", "long")), record(("a", "int", 0))
AB_INT, A_INT_B_DINT = record(("a", "int"), ("b", "int")), record(("a", "int"), ("b", "int", 0))
A_DINT_B_DINT = record(("a", "int", 0), ("b", "int", 0))
LIST = record(("head", "int"), ("tail", ["null", "R"], None))
LONG_LIST = record(("head", "long"), ("tail", ["null", "R"], None))

# reader, writer: Apache's own table of pairs that resolve, and one table for each kind of pair that does not
READABLE: list[tuple[Any, Any]] = [
    *((p, p) for p in ("null", "boolean", "int", "long", "float", "double", "bytes", "string")),
    ("long", "int"), ("float", "int"), ("float", "long"), ("double", "long"), ("double", "int"), ("double", "float"),
    ("string", "bytes"), ("bytes", "string"),
    (array("int"), array("int")), (array("long"), array("int")),
    (mapping("int"), mapping("int")), (mapping("long"), mapping("int")),
    (enum("A", "B"), enum("A", "B")), (enum("A", "B", "C"), enum("A", "B")), (enum("A", "B"), enum("B", "A")),
    (enum("A", "B", default="A"), enum("A", "B", "C")),
    (["string", "null"], []), (["int"], ["int"]), (["int", "string"], ["string", "int"]), (["long"], ["int"]),
    (["float"], ["int"]), (["double"], ["int"]), (["float"], ["long"]), (["double"], ["long"]), (["double"], ["float"]),
    (["string"], ["bytes"]), (["bytes"], ["string"]), (["int", "string"], ["int"]), ("int", ["int"]),
    ("long", ["int", "long"]), (["null", "int"], "int"), (["null", "int"], "null"), (["null", "long"], ["null", "int"]),
    (["null", array("long")], ["null", array("int")]), (["null", mapping("long")], mapping("int")),
    (fixed(4), fixed(4)), (fixed(4, "F", aliases=["G"]), fixed(4, "G")),
    (EMPTY, EMPTY), (EMPTY, A_INT), (A_INT, A_INT), (A_DINT, A_INT), (A_DINT, A_DINT), (A_INT, A_DINT),
    (A_LONG, A_INT), (A_INT, AB_INT), (A_DINT, AB_INT), (A_INT_B_DINT, A_INT), (A_DINT_B_DINT, EMPTY),
    (A_DINT_B_DINT, A_INT), (A_INT_B_DINT, AB_INT), (AB_INT, A_INT_B_DINT),
    (record(("b", "int"), ("a", "int")), AB_INT), (LIST, LIST), (LONG_LIST, LONG_LIST), (LONG_LIST, LIST),
    (record(("a", "int"), namespace="x"), record(("a", "int"), namespace="y")),
    (record(("a", "int"), name="New", aliases=["Old"]), record(("a", "int"), name="Old")),
    ({**record(), "fields": [{"name": "new", "type": "int", "aliases": ["a"]}]}, A_INT),
    ({"type": "long", "logicalType": "timestamp-millis"}, {"type": "long", "logicalType": "timestamp-micros"}),
    ({"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}, "bytes"),
    (record(("a", enum("A", "B", default="A"))), record(("a", enum("A", "B", "C")))),
    (["null", record(("a", "long"))], ["null", record(("a", "int"))]),
    (["null", enum("A", "B")], ["null", enum("A")]),
]  # fmt: skip
UNREADABLE: list[tuple[Any, Any, str]] = [
    ("null", "int", "TYPE_MISMATCH"), ("int", "null", "TYPE_MISMATCH"), ("boolean", "int", "TYPE_MISMATCH"),
    ("int", "boolean", "TYPE_MISMATCH"), ("int", "long", "TYPE_MISMATCH"), ("int", "float", "TYPE_MISMATCH"),
    ("int", "double", "TYPE_MISMATCH"), ("long", "float", "TYPE_MISMATCH"), ("long", "double", "TYPE_MISMATCH"),
    ("float", "double", "TYPE_MISMATCH"), ("string", "int", "TYPE_MISMATCH"), ("string", "boolean", "TYPE_MISMATCH"),
    ("string", array("int"), "TYPE_MISMATCH"), ("string", mapping("int"), "TYPE_MISMATCH"),
    (array("int"), array("long"), "TYPE_MISMATCH"), (array("int"), mapping("int"), "TYPE_MISMATCH"),
    (mapping("int"), array("int"), "TYPE_MISMATCH"), (mapping("int"), mapping("long"), "TYPE_MISMATCH"),
    (mapping("int"), "int", "TYPE_MISMATCH"), (enum("A", "B"), "int", "TYPE_MISMATCH"),
    ("int", enum("A"), "TYPE_MISMATCH"),
    (fixed(4), "bytes", "TYPE_MISMATCH"), (A_INT, mapping("int"), "TYPE_MISMATCH"), (A_INT, A_LONG, "TYPE_MISMATCH"),
    (LIST, LONG_LIST, "TYPE_MISMATCH"), ("int", ["int", "long"], "TYPE_MISMATCH"),
    (["int"], ["int", "string"], "MISSING_UNION_BRANCH"), (["long"], ["long", "string"], "MISSING_UNION_BRANCH"),
    (["int"], ["null", "int"], "MISSING_UNION_BRANCH"), (["null", "int"], "string", "MISSING_UNION_BRANCH"),
    (["string"], ["null"], "MISSING_UNION_BRANCH"), ("int", ["null", "int"], "TYPE_MISMATCH"),
    (enum("A", "B"), enum("A", "B", "C"), "MISSING_ENUM_SYMBOLS"), (enum("A"), enum("B"), "MISSING_ENUM_SYMBOLS"),
    (record(("a", enum("A"), "A")), record(("a", enum("A", "B"))), "MISSING_ENUM_SYMBOLS"),
    (enum("A"), enum("A", name="G"), "NAME_MISMATCH"), (fixed(4), fixed(4, "G"), "NAME_MISMATCH"),
    (record(("a", "int")), record(("a", "int"), name="S"), "NAME_MISMATCH"),
    (fixed(4), fixed(8), "FIXED_SIZE_MISMATCH"),
    (record(("f", fixed(4))), record(("f", fixed(8))), "FIXED_SIZE_MISMATCH"),
    (A_INT, EMPTY, "READER_FIELD_MISSING_DEFAULT_VALUE"), (A_INT_B_DINT, EMPTY, "READER_FIELD_MISSING_DEFAULT_VALUE"),
    (AB_INT, A_INT, "READER_FIELD_MISSING_DEFAULT_VALUE"),
    (record(("x", "int")), A_INT, "READER_FIELD_MISSING_DEFAULT_VALUE"),
]  # fmt: skip


@pytest.mark.parametrize(("reader", "writer"), READABLE, ids=str)
def test_what_resolves(reader: Any, writer: Any) -> None:
    assert can_read(parse(text(reader)), parse_leniently(text(writer)))


@pytest.mark.parametrize(("reader", "writer", "kind"), UNREADABLE, ids=str)
def test_what_does_not_resolve_and_why(reader: Any, writer: Any, kind: str) -> None:
    faults = check(Level.BACKWARD, text(reader), [(1, text(writer))])
    assert kind in {fault.kind for fault in faults}
    assert {fault.kind for fault in check(Level.FORWARD, text(writer), [(1, text(reader))])} == {f.kind for f in faults}


def envelope(*columns: Any) -> str:
    row = record(*columns, name="Value")
    fields = [("before", ["null", row], None), ("after", ["null", "Value"], None), ("op", "string")]
    return text(record(*fields, name="Envelope", namespace="shop.public.products"))


OLD = [("id", "int"), ("qty", ["null", "long"], None), ("state", enum("new", "old", name="S")), ("gone", "int")]
# columns after the change, level, what the user is told
DDL: list[tuple[list[Any], str, list[str]]] = [
    (OLD, "FULL", []),
    ([*OLD, ("note", ["null", "string"], None)], "FULL", []),
    ([*OLD, ("n", "int", 0)], "FULL", []),
    ([*OLD, ("n", "int")], "BACKWARD", ["products.n: added without a default, cannot read the data of v3"]),
    ([*OLD, ("n", "int")], "FORWARD", []),
    (OLD[:-1], "BACKWARD", []),
    (OLD[:-1], "FORWARD", ["products.gone: removed, and had no default, breaks readers of v3"]),
    ([("id", "long"), *OLD[1:]], "BACKWARD", []),
    ([("id", "long"), *OLD[1:]], "FORWARD", ["products.id: int → long, breaks readers of v3"]),
    ([OLD[0], ("qty", ["null", "int"], None), *OLD[2:]], "BACKWARD",
     ["products.qty: null|long → null|int, cannot read the data of v3"]),
    ([OLD[0], ("qty", "long"), *OLD[2:]], "BACKWARD",
     ["products.qty: null|long → long, cannot read the data of v3"]),
    ([*OLD[:2], ("state", enum("new", name="S")), OLD[3]], "BACKWARD",
     ["products.state: enum old removed, cannot read the data of v3"]),
    ([*OLD[:2], ("state", enum("new", "old", "x", name="S")), OLD[3]], "FORWARD",
     ["products.state: enum x added, and the old enum has no default, breaks readers of v3"]),
    ([("id", "string"), *OLD[1:]], "FULL",
     ["products.id: int → string, cannot read the data of v3", "products.id: int → string, breaks readers of v3"]),
    ([OLD[2], OLD[3], OLD[1], OLD[0]], "FULL", []),
]  # fmt: skip


@pytest.mark.parametrize(("columns", "level", "told"), DDL, ids=range(len(DDL)))
def test_a_table_change_inside_the_envelope_names_the_column_once(
    columns: list[Any], level: str, told: list[str]
) -> None:
    assert [str(fault) for fault in check(Level(level), envelope(*columns), [(3, envelope(*OLD))])] == told


def test_transitive_levels_see_every_version_the_others_the_newest() -> None:
    olds = [(1, text(record(("a", "string")))), (2, text(EMPTY)), (4, text(A_DINT))]
    new = text(record(("a", "long", 0)))
    assert check(Level.BACKWARD, new, olds) == []
    faults = check(Level.BACKWARD_TRANSITIVE, new, olds)
    assert [str(fault) for fault in faults] == ["R.a: string → long, cannot read the data of v1"]
    assert [fault.version for fault in check(Level.FORWARD_TRANSITIVE, new, olds)] == [4, 1]
    assert check(Level.NONE, text("string"), olds) == []
    assert check(Level.FULL_TRANSITIVE, new, []) == []


def test_an_old_version_that_cannot_be_parsed_is_in_the_way() -> None:
    assert "is no Avro schema" in str(check(Level.BACKWARD, text("int"), [(2, "{")])[0])
    assert check(Level.NONE, text("int"), [(2, "{")]) == []


@pytest.mark.parametrize(
    "bad",
    [
        "", "{", "5", "null", '"nonesuch"', '{"type":"record","name":"R"}', '{"type":"array"}', '[["int"]]',
        text(record(("a", "int", "x"))), text(record(("a", "int"), ("a", "int"))), text(record(("a-b", "int"))),
        text(enum("A", "A")),
        text(record(("a", "Later"))), '{"type":"fixed","name":"F"}', "[" * 3_000 + '"int"' + "]" * 3_000,
    ],
    ids=range(15),
)  # fmt: skip
def test_strict_parsing(bad: str) -> None:
    with pytest.raises(SchemaFault):
        parse(bad)


@pytest.mark.parametrize(
    "odd",
    [
        {"type": "bytes", "logicalType": "decimal", "precision": 2, "scale": 3},
        {"type": "bytes", "logicalType": "decimal", "precision": 3, "scale": -2},
        {"type": "int", "logicalType": "decimal"},
        {"type": "string", "logicalType": "nonesuch"},
    ],
)
def test_a_logical_type_that_does_not_hold_is_read_over(odd: Any) -> None:
    schema = text(record(("a", odd), ("b", ["null", odd])))
    assert can_read(parse(schema), parse(text(record(("a", odd["type"]), ("b", ["null", odd["type"]])))))


names = st.sampled_from(["a", "b", "c"])
types = st.recursive(
    st.sampled_from(["null", "boolean", "int", "long", "float", "double", "bytes", "string"]),
    lambda inner: st.one_of(inner.map(array), inner.map(mapping)),
    max_leaves=3,
)
unions = st.lists(st.sampled_from(["null", "int", "long", "string", "double"]), min_size=1, unique=True)
columns = st.dictionaries(names, st.one_of(types, unions), max_size=3)


@given(columns, columns)
def test_a_refusal_is_always_explained_and_an_explanation_is_always_a_refusal(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    reader, writer = record(*new.items()), record(*old.items())
    faults = check(Level.BACKWARD, text(reader), [(1, text(writer))])
    assert bool(faults) is not can_read(parse(text(reader)), parse(text(writer)))
    for fault in faults:
        column = fault.column.removeprefix("R.").partition(".")[0]
        assert column in new
        alone = [record(*((name, kind) for name, kind in side.items() if name == column)) for side in (new, old)]
        assert not can_read(parse(text(alone[0])), parse(text(alone[1])))
