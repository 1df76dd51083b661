"""Run Confluent's Java client, serializer and deserializer in a JVM of their own (a program; needs JPype).

Arguments: the JVM's library, and the class path. Each line of standard input is a call in JSON, `[what, [arguments],
{settings}]`; each line of standard output its outcome: `{"value"}`, or `{"refused", "status", "code"}`. Bytes are hex.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import jpype  # type: ignore[import-untyped]  # published without types


def _class(name: str) -> Any:
    return jpype.JClass(f"io.confluent.kafka.{name}")


def _map(settings: dict[str, Any]) -> Any:
    made = jpype.JClass("java.util.HashMap")()
    for name, value in settings.items():
        made.put(name, value)
    return made


def _client(url: str, **settings: Any) -> Any:
    """A client with nothing in its cache."""
    return _class("schemaregistry.client.CachedSchemaRegistryClient")(url, 100, _map(settings))


def _schema(text: str) -> Any:
    return jpype.JClass("org.apache.avro.Schema$Parser")().parse(text)


def _record(schema: Any, text: str) -> Any:
    """A record from Avro's JSON encoding."""
    reader = jpype.JClass("org.apache.avro.generic.GenericDatumReader")(schema)
    decoder = jpype.JClass("org.apache.avro.io.DecoderFactory").get().jsonDecoder(schema, text)
    return reader.read(None, decoder)


def serialize(url: str, topic: str, schema: str, record: str, **settings: Any) -> str:
    """What KafkaAvroSerializer makes of a record; it registers the schema unless told otherwise."""
    made = _class("serializers.KafkaAvroSerializer")(_client(url, **settings))
    made.configure(_map({"schema.registry.url": url, **settings}), False)
    return bytes(made.serialize(topic, _record(_schema(schema), record))).hex()


def _deserialized(url: str, topic: str, data: str, **settings: Any) -> Any:
    made = _class("serializers.KafkaAvroDeserializer")(_client(url, **settings))
    made.configure(_map({"schema.registry.url": url, **settings}), False)
    return made.deserialize(topic, jpype.JArray(jpype.JByte)(bytes.fromhex(data)))


def deserialize(url: str, topic: str, data: str, **settings: Any) -> str:
    """What KafkaAvroDeserializer makes of bytes, as Avro's JSON-like text."""
    return str(_deserialized(url, topic, data, **settings))


def again(url: str, topic: str, data: str) -> str:
    """Bytes deserialized and serialized again, by a serializer that must find the schema registered."""
    record = _deserialized(url, topic, data)
    made = _class("serializers.KafkaAvroSerializer")(_client(url))
    made.configure(_map({"schema.registry.url": url, "auto.register.schemas": False}), False)
    return bytes(made.serialize(topic, record)).hex()


def printed(text: str) -> list[str] | None:
    """A schema as Apache's library prints it, and as Confluent's normalizes it; None for one that they refuse."""
    try:
        return [str(_schema(text).toString()), str(_avro(text).normalize().canonicalString())]
    except jpype.JException:
        return None


def _avro(text: str) -> Any:
    return _class("schemaregistry.avro.AvroSchema")(text)


def _plain(value: Any) -> Any:
    """Java's value as JSON has it."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, jpype.JClass("java.util.Collection")):
        return [_plain(item) for item in value]
    if isinstance(value, jpype.JClass("java.lang.Number")):
        return int(value)
    if isinstance(value, _class("schemaregistry.client.SchemaMetadata")):
        return [int(value.getId()), int(value.getVersion()), str(value.getSchema())]
    return str(value)


def client(url: str, method: str, *arguments: Any, **settings: Any) -> Any:
    """One call of a fresh client; an argument that begins with `{` is a schema."""
    given = [_avro(each) if isinstance(each, str) and each.startswith("{") else each for each in arguments]
    return _plain(getattr(_client(url, **settings), method)(*given))


_CALLS: dict[str, Callable[..., Any]] = {
    "serialize": serialize,
    "deserialize": deserialize,
    "again": again,
    "printed": printed,
    "client": client,
}


def _outcome(what: str, arguments: list[Any], settings: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"value": _CALLS[what](*arguments, **settings)}
    except jpype.JException as exc:
        cause = exc
        while cause is not None and not hasattr(cause, "getErrorCode"):
            cause = cause.getCause()
        codes = {} if cause is None else {"status": int(cause.getStatus()), "code": int(cause.getErrorCode())}
        return {"refused": str(cause or exc), **codes}


def main() -> None:
    """Answer calls until there are no more."""
    jvm, classpath = sys.argv[1:]
    jpype.startJVM(
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=off",
        jvmpath=jvm,
        classpath=classpath.split(os.pathsep),
        convertStrings=True,
    )
    for line in sys.stdin:
        print(json.dumps(_outcome(*json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
