"""Any record of ours, or of another program with a registry, as plain JSON values for a person to read.

Three kinds of schema are read: envelopes give PostgreSQL's texts of the row, documents of a flow their own values, any
other Avro its values as they are (bytes as hexadecimal text).
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final

import fastavro

from instep.change import ABSENT, Row
from instep_schemas.decode import compile_decoder, decode_key, expand
from instep_schemas.documents import DocumentCodec
from instep_schemas.exact import EXACT_HEADER, exact_texts
from instep_schemas.records import unframe
from instep_schemas.wire import EXACT

Read = Callable[[bytes], Any]

_ENVELOPE: Final = {"before", "after", "source", "op"}
_IMAGES: Final = ("before", "after")


class Readable:
    """Reads keys and values by the schemas they name.

    Args:
        schema: gives a schema's text by its registry id.
    """

    def __init__(self, schema: Callable[[int], str]) -> None:
        self._schema = schema
        self._readers: dict[int, Read] = {}

    def read(self, data: bytes | None) -> Any:
        """The content as JSON values; text or hexadecimal for what is not in a registry's wire format.

        Raises:
            RegistryError: the registry refuses, or knows no such schema.
            ConnectionError, TimeoutError: it does not answer.
        """
        if data is None:
            return None
        try:
            schema_id, body = unframe(data)
        except ValueError:
            return _plain(data)
        if schema_id not in self._readers:
            self._readers[schema_id] = reader_of(self._schema(schema_id))
        try:
            return self._readers[schema_id](body)
        except Exception as exc:  # whatever a foreign program wrote must not end the listing
            return {"undecodable": f"does not fit schema {schema_id} ({type(exc).__name__})", "hex": data.hex()}


def with_exact(shown: Any, headers: Sequence[tuple[str, Any]]) -> Any:
    """An envelope as `Readable.read` gives it, with the values that its record's header tells; else as it is.

    Raises:
        ValueError: the header is none of ours.
    """
    content = dict(headers).get(EXACT_HEADER)
    if content is None:
        return shown
    if not isinstance(shown, dict):
        raise ValueError("no envelope")
    texts = exact_texts(content)
    shown = {name: value | texts.get(name, {}) if name in _IMAGES and value else value for name, value in shown.items()}
    unchanged = [name for name in shown.pop("unchanged", ()) if name not in texts.get("after", ())]
    return shown | ({"unchanged": unchanged} if unchanged else {})


def _plain(data: bytes) -> Any:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return {"hex": data.hex()}
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return found if isinstance(found, (dict, list)) else text


def reader_of(text: str) -> Read:
    """What reads bodies (unframed) of one schema into JSON values."""
    schema = json.loads(text)
    fields = schema.get("fields", ()) if isinstance(schema, dict) else ()
    if {field["name"] for field in fields} >= _ENVELOPE:
        return _envelope(text)
    if fields and schema.get("name") == "Key" and "connect.name" in schema:
        return decode_key(text)
    if fields and schema.get("name") == "Value" and all("pg.type" in field or EXACT in field for field in fields):
        codec = DocumentCodec(text)
        return lambda body: _json(codec.decode(body))
    parsed = fastavro.parse_schema(expand(schema) if fields else schema, _force=True)
    return lambda body: _json(fastavro.schemaless_reader(io.BytesIO(body), parsed, None))


def _envelope(text: str) -> Read:
    decode = compile_decoder(text)

    def read(body: bytes) -> dict[str, Any]:
        found = decode(body)
        rows = {"before": found.before, "after": found.after}
        unchanged = [name for name, value in (found.after or {}).items() if value is ABSENT]
        return {
            "op": str(found.op),
            **{name: _row(row) for name, row in rows.items()},
            **({"unchanged": unchanged} if unchanged else {}),
            "committed_us": found.ts_us,
            "tx_id": found.tx_id,
        }

    return read


def _row(row: Row | None) -> dict[str, str | None] | None:
    """The columns that the change carries."""
    return None if row is None else {name: value for name, value in row.items() if value is not ABSENT}


def _json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _json(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(each) for each in value]
    if isinstance(value, bytes):
        return value.hex()
    return str(value) if isinstance(value, (Decimal, datetime, date, time, timedelta)) else value
