"""A table's shape from its schemas: ours exactly, Debezium's as near as Avro tells."""

from __future__ import annotations

import pytest
from tests.schemas.samples import LOSSY, MOOD, SAMPLES, UNMAPPED, array, base, column_of, relation_of

from instep.relation import Column, Type, TypeKind
from instep_schemas.derive import derive
from instep_schemas.shape import TableShape, shape_of, sql_type
from instep_schemas.wire import WireOptions

DEBEZIUM = WireOptions("my-shop", "inventory", "debezium")
NATIVE = WireOptions("my-shop", "inventory", "native")


def shape(columns: list[Column], options: WireOptions, key: tuple[str, ...] = ("id",)) -> TableShape:
    schemas = derive(relation_of(columns, key), options)
    return shape_of(schemas.key_text, schemas.value_text)


@pytest.mark.parametrize("name", sorted(SAMPLES | LOSSY | dict.fromkeys(UNMAPPED)))
def test_native_shapes_are_exact(name: str) -> None:
    sample = (SAMPLES | LOSSY).get(name)
    column = column_of(0, sample, not_null=True) if sample else Column("c0", UNMAPPED[name], sql_type="public.x")
    told = shape([column], NATIVE)
    assert (told.schema, told.table, told.key, told.identity) == ("public", "things", ("id",), ("id",))
    assert [each[:3] for each in told.columns] == [("id", "integer", True), ("c0", column.sql_type, sample is not None)]


NEAREST = {
    "int2": "smallint",
    "oid": "bigint",
    "numeric_10_2": "numeric(10,2)",
    "varchar": "text",
    "jsonb": "jsonb",
    "enum": "text",
    "bytea": "bytea",
    "date": "date",
    "time3": "time(3) without time zone",
    "timestamp": "timestamp without time zone",
    "timestamptz2": "timestamp with time zone",
    "int4[]": "integer[]",
    "numeric[]": "numeric(6,2)[]",
    "numeric": "numeric",
    "money": "numeric(64,2)",
    "bit1": "boolean",
    "varbit": "bit varying",
    "interval": "interval",
    "point": "point",
    "float4": "real",
}


@pytest.mark.parametrize("name", sorted(NEAREST))
def test_debeziums_shapes_are_the_nearest(name: str) -> None:
    told = shape([column_of(0, (SAMPLES | LOSSY)[name], not_null=False)], DEBEZIUM)
    assert (told.schema, told.table, told.key, told.identity) == ("public", "things", ("id",), None)
    assert [each[:3] for each in told.columns] == [("id", "integer", True), ("c0", NEAREST[name], False)]


def test_native_shapes_tell_labels_bases_and_constant_defaults() -> None:
    code = Type(1, "public", "code", TypeKind.DOMAIN, element=base("varchar"), modifier=11)
    codes = Type(3, "public", "codes", TypeKind.DOMAIN, element=array(base("int4")))
    moods = Type(4, "public", "feeling", TypeKind.DOMAIN, element=MOOD)
    columns = [
        Column("a", MOOD, default="'ok'::public.mood", sql_type="public.mood"),
        Column("b", array(MOOD), sql_type="public.mood[]"),
        Column("c", Type(2, "public", "short", TypeKind.DOMAIN, element=code), sql_type="public.short"),
        Column("d", array(code), default="'{}'::public.code[]", sql_type="public.code[]"),
        Column("e", codes, sql_type="public.codes"),
        Column("f", moods, sql_type="public.feeling"),
        Column("g", base("timestamptz"), default="now()", sql_type="timestamp with time zone"),
        Column("h", base("numeric"), default="'-1.5'::numeric", sql_type="numeric"),
    ]
    told = {each.name: each[3:] for each in shape(columns, NATIVE).columns}
    assert told == {
        "id": ((), None, None),
        "a": (MOOD.labels, None, "ok"),
        "b": (MOOD.labels, None, None),
        "c": ((), '"varchar"(7)', None),
        "d": ((), '"varchar"(7)', "{}"),
        "e": ((), '"int4"[]', None),
        "f": (MOOD.labels, 'public."mood"', None),
        "g": ((), None, None),
        "h": ((), None, "-1.5"),
    }
    assert {each[3:] for each in shape(columns, DEBEZIUM).columns} == {((), None, None)}


def test_keys_keep_their_order_and_names() -> None:
    columns = [
        Column("zwei ö", base("int4"), not_null=True, identity=True, sql_type="integer"),
        Column("eins", base("text"), not_null=True, identity=True, sql_type="text"),
    ]
    told = shape(columns, NATIVE, ("zwei ö", "eins"))
    assert told.key == ("zwei ö", "eins")
    assert told.identity == ("id", "zwei ö", "eins")
    assert shape(columns, NATIVE, ()).key == ()


def test_what_has_no_counterpart() -> None:
    with pytest.raises(ValueError, match="no PostgreSQL type"):
        sql_type({"type": "fixed", "name": "Hash", "size": 4})
    with pytest.raises(ValueError, match="not an envelope"):
        shape_of(None, '{"type":"record","name":"Flat","fields":[]}')
