"""Schemas beyond the recorded cases: the native profile's attributes, defaults, names, handling modes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.schemas.samples import LOSSY, SAMPLES, UNMAPPED, array, base, column_of, numeric, relation_of

from instep.relation import Column, Relation, ReplicaIdentity, Type, TypeKind
from instep_schemas.derive import derive, schema_text
from instep_schemas.wire import Unsupported, WireOptions, adjusted_name

DEBEZIUM = WireOptions("shop", "inventory", "debezium")
NATIVE = WireOptions("shop", "inventory", "native")


def fields_of(relation: Relation, options: WireOptions) -> dict[str, Any]:
    value = derive(relation, options).value["fields"][0]["type"][1]
    return {field["name"]: field for field in value["fields"]}


def field(column: Column, options: WireOptions) -> Any:
    return fields_of(relation_of([column]), options).get(column.name)


@pytest.mark.parametrize("options", [DEBEZIUM, NATIVE])
@given(names=st.lists(st.sampled_from(sorted(SAMPLES | LOSSY)), max_size=8), required=st.booleans())
def test_every_schema_is_avro(options: WireOptions, names: list[str], required: bool) -> None:
    columns = [column_of(n, (SAMPLES | LOSSY)[name], not_null=required) for n, name in enumerate(names)]
    schemas = derive(relation_of(columns), options)
    fastavro.parse_schema(json.loads(schemas.value_text))
    fastavro.parse_schema(json.loads(schemas.key_text or ""))


def test_native_schemas_tell_the_columns_types() -> None:
    relation = relation_of([column_of(0, SAMPLES["domain"], not_null=True)])
    told = fields_of(relation, NATIVE)
    assert told["id"] == {"name": "id", "type": "int", "pg.type": "integer"}
    assert told["c0"]["pg.type"] == "public.price"
    value = derive(relation, NATIVE).value["fields"][0]["type"][1]
    assert (value["pg.schema"], value["pg.table"], value["pg.identity"]) == ("public", "things", ["id"])
    key = derive(relation, NATIVE).key
    assert key is not None and key["fields"] == [{"name": "id", "type": "int"}]
    assert "pg." not in derive(relation, DEBEZIUM).value_text


def test_full_identity_carries_every_column() -> None:
    relation = replace(
        relation_of([column_of(0, SAMPLES["text"], not_null=True)]), replica_identity=ReplicaIdentity.FULL
    )
    assert derive(relation, NATIVE).value["fields"][0]["type"][1]["pg.identity"] == ["id", "c0"]


@pytest.mark.parametrize("name", sorted(UNMAPPED))
def test_types_that_debezium_leaves_out(name: str) -> None:
    column = Column("v", UNMAPPED[name], sql_type="public.x")
    assert field(column, DEBEZIUM) is None
    assert field(column, NATIVE)["type"] == ["null", "string"]


@pytest.mark.parametrize("name", sorted(LOSSY))
def test_lossy_types_are_text_in_the_native_profile(name: str) -> None:
    assert field(column_of(0, LOSSY[name], not_null=False), NATIVE)["type"] == ["null", "string"]


def test_a_record_type_is_spelled_out_once() -> None:
    columns = [column_of(n, LOSSY["numeric"], not_null=n == 0) for n in range(3)]
    text = derive(relation_of(columns), DEBEZIUM).value_text
    assert text.count('"name":"VariableScaleDecimal"') == 1
    assert '"io.debezium.data.VariableScaleDecimal"],"default":null' in text


DEFAULTS = [
    ("int4", "7", 7),
    ("int4", "'-1'::integer", -1),
    ("int4", "(7)::integer", None),
    ("text", "(7)::text", "(7)::text"),
    ("int4", "nextval('s'::regclass)", 0),
    ("int4", "1 + 2", None),
    ("text", "('a'::text || 'b'::text)", "a"),
    ("text", "'a'::text || 'b'::text", "a"),
    ("int4", "NULL::integer", None),
    ("text", "'it''s'::text", "it's"),
    ("text", "upper('x'::text)", ""),
    ("bool", "true", True),
    ("float8", "'1.5'::double precision", 1.5),
    ("timestamptz", "now()", "1970-01-01T00:00:00.000000Z"),
    ("timestamptz", "CURRENT_TIMESTAMP", "1970-01-01T00:00:00.000000Z"),
    ("date", "CURRENT_DATE", 0),
    ("date", "'2024-02-29'::date", 19_782),
    ("uuid", "gen_random_uuid()", "00000000-0000-0000-0000-000000000000"),
    ("jsonb", "'{}'::jsonb", "{}"),
    ("bytea", "'\\x00'::bytea", None),
    ("inet", "'::1'::inet", None),
]


@pytest.mark.parametrize(("name", "expression", "default"), DEFAULTS)
def test_defaults(name: str, expression: str, default: Any) -> None:
    shown = field(Column("v", base(name), default=expression, sql_type=name), DEBEZIUM)
    assert shown["default"] == default
    if default is not None:
        assert shown["type"][1] == "null" and shown["type"][0]["connect.default"] == default
    arrays = Column("v", array(base("int4")), default="'{}'::integer[]", sql_type="integer[]")
    assert field(arrays, DEBEZIUM)["default"] is None


@pytest.mark.parametrize(
    ("name", "modes", "shown"),
    [
        ("date", {}, 169_560_311), ("timestamp", {}, -9_223_372_036_853_775_810), ("timestamptz", {}, None),
        ("timestamp", {"times": "connect"}, None), ("date", {"times": "isostring"}, "+999999999-12-31Z"),
    ],
)  # fmt: skip
def test_infinite_defaults_are_what_debezium_makes_of_them(name: str, modes: dict[str, Any], shown: Any) -> None:
    column = Column("v", base(name), default=f"'infinity'::{name}", sql_type=name)
    assert field(column, replace(DEBEZIUM, **modes))["default"] == shown


def test_defaults_of_reals_are_as_short_as_java_writes_them() -> None:
    columns = [Column(name, base(name), default="'1.1'::x", sql_type=name) for name in ("float4", "float8")]
    text = derive(relation_of(columns), DEBEZIUM).value_text
    assert '{"type":"float","connect.default":1.1},"null"],"default":1.100000023841858' in text
    assert '{"type":"double","connect.default":1.1},"null"],"default":1.1' in text
    large = Column("v", base("float8"), default="'1e10'::double precision", sql_type="float8")
    assert '"connect.default":1.0E10},"null"],"default":1.0E10' in derive(relation_of([large]), DEBEZIUM).value_text


def test_arrays_of_domains_are_unknown_to_debezium() -> None:
    domain = Type(90_002, "public", "posint", TypeKind.DOMAIN, element=base("int4"))
    column = Column("v", array(domain), sql_type="public.posint[]")
    assert field(column, DEBEZIUM) is None
    assert field(column, replace(DEBEZIUM, unknown=True))["type"][1] == {"type": "array", "items": "bytes"}
    texts = replace(DEBEZIUM, unknown=True, binary="hex")
    assert field(column, texts)["type"][1] == {"type": "array", "items": "string"}


@pytest.mark.parametrize(("precision", "scale", "told"), [(3, -2, 2046), (2, 4, 4)])
def test_numbers_that_avro_has_no_decimal_for(precision: int, scale: int, told: int) -> None:
    column = Column("v", base("numeric"), numeric(precision, scale), sql_type=f"numeric({precision},{scale})")
    assert field(column, NATIVE)["type"] == ["null", "string"]
    assert field(column, DEBEZIUM)["type"][1]["scale"] == told


MODES: list[tuple[str, dict[str, str], Any]] = [
    ("numeric", {"decimals": "string"}, "string"),
    ("numeric", {"decimals": "double"}, "double"),
    ("money", {"decimals": "string"}, "string"),
    ("bytea", {"binary": "hex"}, "string"),
    ("interval", {"intervals": "string"}, "io.debezium.time.Interval"),
    ("time", {"times": "adaptive_time_microseconds"}, "io.debezium.time.MicroTime"),
    ("date", {"times": "isostring"}, "io.debezium.time.IsoDate"),
    ("timestamp", {"times": "connect"}, "org.apache.kafka.connect.data.Timestamp"),
]


@pytest.mark.parametrize(("name", "modes", "shown"), MODES)
def test_handling_modes_hold_for_debezium_only(name: str, modes: dict[str, Any], shown: str) -> None:
    column = Column("v", base(name), 3 if name == "time" else -1, sql_type=name)
    avro = field(column, replace(DEBEZIUM, **modes))["type"][1]
    assert (avro if isinstance(avro, str) else avro["connect.name"]) == shown
    assert field(column, replace(NATIVE, **modes)) == field(column, NATIVE)


def test_hstore_as_a_map() -> None:
    column = Column("v", base("hstore", "public"), sql_type="public.hstore")
    assert field(column, replace(DEBEZIUM, hstore="map"))["type"][1] == {"type": "map", "values": ["null", "string"]}


@pytest.mark.parametrize(
    ("name", "adjusted"), [("plain", "plain"), ("1st", "_1st"), ("a b", "a_b"), ("naïve", "na_ve"), ("$", "_")]
)
def test_names(name: str, adjusted: str) -> None:
    assert adjusted_name(name) == adjusted


def test_namespaces_keep_dots_and_inner_digits() -> None:
    assert WireOptions("my-shop.eu1", "").namespace("My Schema", "2start") == "my_shop.eu1.My_Schema.2start"
    assert WireOptions("1shop", "").namespace("public", "t") == "_1shop.public.t"


@pytest.mark.parametrize("other", ["ID", "Id"])
def test_names_that_collide_are_refused(other: str) -> None:
    with pytest.raises(Unsupported, match="one name in Avro"):
        derive(relation_of([Column(other, base("int4"), sql_type="integer")]), NATIVE)


def test_control_characters_in_defaults_are_escaped_as_java_does() -> None:
    schema = {"type": "string", "doc": "\x0b\x1f\n\\u00ab é"}
    assert schema_text(schema) == '{"type":"string","doc":"\\u000B\\u001F\\n\\\\u00ab é"}'
