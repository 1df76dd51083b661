"""A Debezium configuration is understood as it is meant, ignored with a warning, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from instep.change import Op
from instep.errors import ConfigError
from instep.settings import KafkaSettings, RegistrySettings
from instep_connectors.postgres.selection import IdentityRule, Selection
from instep_schemas.wire import Hash
from instep_streams.capture.connector import Connector, connector
from instep_streams.capture.properties import parse_properties, read

BASE = {
    "topic.prefix": "inv",
    "database.hostname": "db.example",
    "database.user": "u",
    "database.password": "p w'",
    "database.dbname": "shop",
}
KAFKA, REGISTRY = KafkaSettings(bootstrap="k:9092"), RegistrySettings(url="http://r:8081")


def understood(**settings: str) -> Connector:
    named = {name.replace("__", "."): value for name, value in settings.items()}
    return connector(BASE | named, KAFKA, REGISTRY)


def test_the_defaults_are_debeziums() -> None:
    parsed = understood()
    source, compatible = parsed.settings.sources["inv"], parsed.compatible
    assert (source.publication, source.slot, source.partitions) == ("dbz_publication", "debezium", 1)
    assert source.dsn.reveal() == r"host=db.example port=5432 user=u password='p w\'' dbname=shop"
    assert compatible.publication == "all_tables" and not compatible.via_root
    assert compatible.skipped == {Op.TRUNCATE} and compatible.snapshot == "initial"
    assert compatible.transaction_topic is None and compatible.heartbeat_s == 0
    assert compatible.wire.profile == "debezium" and compatible.wire.tombstones
    assert parsed.settings.kafka is KAFKA and parsed.warnings == ()


def test_what_is_written_follows_the_settings() -> None:
    compatible = understood(
        table__include__list=r"public\.a{1\,2}, public.b",
        schema__exclude__list="audit",
        column__include__list="public.t.(id|v)",
        message__key__columns="public.t:b,a; (.*).u:c",
        skipped__operations="u,d",
        provide__transaction__metadata="true",
        heartbeat__interval__ms="500",
        time__precision__mode="microseconds",
        decimal__handling__mode="double",
        unavailable__value__placeholder="hex:3f3f",
        message__prefix__exclude__list="audit",
        incremental__snapshot__watermarking__strategy="INSERT_DELETE",
    ).compatible
    assert compatible.selection == Selection((), ("audit",), (r"public\.a{1,2}", "public.b"), ())
    assert compatible.selection.wants("PUBLIC", "AA") and not compatible.selection.wants("audit", "b")
    assert compatible.wire.include == ("public.t.(id|v)",)
    assert compatible.wire.keys == ("public.t.b", "public.t.a", "(.*).u.c")
    assert compatible.skipped == {Op.UPDATE, Op.DELETE}
    assert compatible.transaction_topic == "inv.transaction" and compatible.wire.transactions
    assert (compatible.heartbeat_s, compatible.heartbeat_topic) == (0.5, "__debezium-heartbeat.inv")
    assert (compatible.wire.times, compatible.wire.decimals) == ("microseconds", "double")
    assert compatible.wire.unavailable == "??" and compatible.delete_window
    assert compatible.not_messages == ("audit",)


def test_blanks_in_key_columns_count_where_they_count_for_debezium() -> None:
    keys = understood(message__key__columns=" public.a:v, id ; public.b :w").compatible.wire.keys
    assert keys == ("public.a.v", "public.a.id", "public.b .w")


def test_topics_by_their_settings() -> None:
    compatible = understood(
        topic__delimiter="_",
        topic__naming__strategy="io.debezium.schema.DefaultTopicNamingStrategy",
        provide__transaction__metadata="true",
    ).compatible
    assert (
        compatible.wire.topic("public", "t x") == "inv_t_x" and compatible.wire.namespace("public", "t-x") == "inv_t_x"
    )
    assert compatible.transaction_topic == "inv_transaction" and compatible.message_topic == "inv.message"
    assert compatible.heartbeat_topic == "__debezium-heartbeat_inv"
    assert understood().compatible.wire.topic("public", "t") == "inv.public.t"


def test_selects_and_identities_by_table() -> None:
    name = "snapshot.select.statement.overrides"
    settings = {name: 'public.a, public."B"', f"{name}.public.a": "SELECT 1;", f'{name}.public."B"': "SELECT 2"}
    settings |= {f"{name}.public.c": "SELECT 3", "replica.identity.autoset.values": "a.*:full, b.c:INDEX i_1"}
    parsed = connector(BASE | settings, KAFKA, REGISTRY)
    assert parsed.compatible.overrides == (("public.a", "SELECT 1"), ("public.B", "SELECT 2"))
    assert parsed.warnings == (f"{name} does not name public.c: the SELECT is not used",)
    assert parsed.compatible.identities == (IdentityRule("a.*", "FULL"), IdentityRule("b.c", "INDEX", "i_1"))


def test_the_signal_table_is_streamed_whatever_the_filters_say_but_not_copied() -> None:
    settings = {"signal.data.collection": "ctl.Sig", "table.include.list": "public.a", "schema.exclude.list": "ctl"}
    selection = connector(BASE | settings, KAFKA, REGISTRY).compatible.selection
    assert selection.wants("ctl", "Sig") and not selection.copies("ctl", "Sig")
    assert selection.wants("public", "a") and selection.copies("public", "a")
    assert not selection.wants("ctl", "sig") and not selection.wants("public", "b")


def test_masks_by_name() -> None:
    wire = connector(
        BASE
        | {
            "column.mask.with.0.chars": "public.t.a,public.t.b",
            "column.truncate.to.3.chars": "public.t.c",
            "column.mask.hash.SHA-256.with.salt.s.a.l.t": "public.t.d",
            "column.mask.hash.v2.MD5.with.salt.x": "public.t.e",
        },
        KAFKA,
        REGISTRY,
    ).compatible.wire
    assert wire.mask == (("public.t.a", 0), ("public.t.b", 0)) and wire.truncate == (("public.t.c", 3),)
    assert set(wire.hashed) == {
        ("public.t.d", Hash("sha256", "s.a.l.t")),
        ("public.t.e", Hash("md5", "x", serialized=False)),
    }


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"transforms": "route"}, "transforms=route is not done here"),
        ({"transforms.unwrap.type": "x.Unwrap", "transforms": "unwrap"}, "transforms=unwrap is not done here"),
        ({"value.converter": "org.apache.kafka.connect.json.JsonConverter"}, "changes what is written"),
        ({"table.inclde.list": "x"}, "table.inclde.list is not known"),
        ({"snapshot.mode": "custom"}, "snapshot.mode=custom"),
        ({"table.include.list": "a("}, "not a regular expression"),
        ({"heartbeat.interval.ms": "soon"}, "not a whole number"),
        ({"tombstones.on.delete": "maybe"}, "neither true nor false"),
        ({"decimal.handling.mode": "exact"}, "Known are: precise"),
        ({"skipped.operations": "x"}, "unknown operation"),
        ({"message.key.columns": "public.t"}, "message.key.columns"),
        ({"topic.prefix": ""}, "lacks topic.prefix"),
        ({"snapshot.select.statement.overrides": "public.t"}, "no snapshot.select.statement.overrides.public.t"),
        ({"replica.identity.autoset.values": "public.t:ALL"}, "Known are FULL, DEFAULT, NOTHING, INDEX name"),
        ({"signal.enabled.channels": "source,kafka"}, "signals come by the signal table alone"),
        ({"topic.delimiter": "/"}, "not allowed in the name of a Kafka topic"),
        ({"topic.naming.strategy": "mine.Strategy"}, "Known are: io.debezium.schema.SchemaTopicNamingStrategy"),
        ({"value.converter.connect.meta.data": "false"}, "schemas are those of the converter's own defaults"),
        ({"key.converter.auto.register.schemas": "false"}, "schemas are those of the converter's own defaults"),
        ({"value.converter.value.subject.name.strategy": "x.RecordNameStrategy"}, "`topic-key` and `topic-value`"),
        ({"header.converter": "org.apache.kafka.connect.json.JsonConverter"}, "headers are texts"),
        ({"xmin.fetch.interval.ms": "1000"}, "`source.xmin` is always null"),
        ({"guardrail.collections.limit.action": "fail"}, "no number of tables stops capture"),
    ],
)
def test_what_would_change_the_data_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        connector(BASE | settings, KAFKA, REGISTRY)
    assert words in f"{caught.value.cause} {caught.value.remedy}"


def test_what_only_steers_debezium_is_ignored_with_one_warning() -> None:
    (warning,) = understood(
        max__batch__size="1", poll__interval__ms="50", tasks__max="1", slot__max__retries="3"
    ).warnings
    assert warning.endswith("max.batch.size, poll.interval.ms, slot.max.retries")
    (warning,) = understood(snapshot__mode="always").warnings
    assert "snapshot.mode=always" in warning


def test_brokers_and_registry_of_the_file_win() -> None:
    parsed = connector(
        BASE
        | {
            "bootstrap.servers": "other:9092",
            "value.converter.schema.registry.url": "http://other",
            "value.converter.basic.auth.user.info": "me:secret",
        }
    )
    assert parsed.settings.kafka.bootstrap == "other:9092"
    assert (parsed.settings.registry.url, parsed.settings.registry.password.reveal()) == ("http://other", "secret")
    with pytest.raises(ConfigError, match="no Kafka brokers"):
        connector(BASE)
    with pytest.raises(ConfigError, match="no schema registry"):
        connector(BASE, KAFKA)


def test_properties_json_and_server_prefixes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_properties("# c\n! c\n\na=1\nb : x\\\n   y\nc\\ d\tv\\u00e9\ne\nf=a=b") == {
        "a": "1", "b": "xy", "c d": "vé", "e": "", "f": "a=b",
    }  # fmt: skip
    monkeypatch.setenv("STORE_PASSWORD", "s3cret")
    secrets = tmp_path / "secrets.properties"
    secrets.write_text("user=bob\n")
    file = tmp_path / "connector.properties"
    file.write_text(
        f"debezium.source.database.password=${{env:STORE_PASSWORD}}\ndebezium.source.topic.prefix=inv\n"
        f"database.user=${{file:{secrets}:user}}\n"
    )
    assert read(file) == {"database.password": "s3cret", "topic.prefix": "inv", "database.user": "bob"}
    file.write_text('{"name": "x", "config": {"tombstones.on.delete": false, "tasks.max": 1, "a": null}}')
    assert read(file) == {"tombstones.on.delete": "false", "tasks.max": "1"}
    for text, words in {"{": "not valid JSON", "a=${env:NOT_THERE}": "leads nowhere", '{"a": []}': "names and"}.items():
        file.write_text(text)
        with pytest.raises(ConfigError, match=words):
            read(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / "missing")
