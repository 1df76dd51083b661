"""May a new Avro schema follow the old ones? The seven levels, with answers that name the column (pure).

Apache's own checker (`avro.compatibility`) decides; what it says is of no use to a person, above all inside a Debezium
envelope, where every fault is "missing union branch at /fields/0". So a refusal is explained by a second walk over both
schemas, which names the column and the change: `products.qty: long → int, cannot read the data of v3`.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

import avro.errors
import avro.schema
import fastavro
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType

_ROW_FIELDS: Final = ("before", "after")
_NAMED: Final = ("record", "error", "enum", "fixed")
_FIELD_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAMESPACE: Final = re.compile(r"[\w.]*")
_PARSED_KEPT: Final = 4_096


class Level(StrEnum):
    """Which readers and writers must understand each other."""

    NONE = "NONE"
    BACKWARD = "BACKWARD"
    BACKWARD_TRANSITIVE = "BACKWARD_TRANSITIVE"
    FORWARD = "FORWARD"
    FORWARD_TRANSITIVE = "FORWARD_TRANSITIVE"
    FULL = "FULL"
    FULL_TRANSITIVE = "FULL_TRANSITIVE"

    @property
    def transitive(self) -> bool:
        """Whether every older version counts, not only the newest."""
        return self.endswith("_TRANSITIVE")

    @property
    def backward(self) -> bool:
        """Whether the new schema must read old data."""
        return self.startswith(("BACKWARD", "FULL"))

    @property
    def forward(self) -> bool:
        """Whether old schemas must read new data."""
        return self.startswith(("FORWARD", "FULL"))


class SchemaFault(ValueError):
    """A text that is no Avro schema, with the parser's reason."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One reason why one version stands in the way.

    Attributes:
        kind: `TYPE_MISMATCH`, `MISSING_UNION_BRANCH`, … as Apache names them.
        column: `products.qty`; the schema's own name when the whole schema is meant.
        change: `long → int`.
        breaks: `cannot read the data of v3`, or `breaks readers of v3`.
        version: the older version.
    """

    kind: str
    column: str
    change: str
    breaks: str
    version: int

    def __str__(self) -> str:
        return f"{self.column}: {self.change}, {self.breaks}"


@lru_cache(_PARSED_KEPT)
def parse(text: str) -> avro.schema.Schema:
    """Parse a self-contained schema strictly: what either Apache's parser or fastavro refuses is refused.

    Each alone lets faults through: Apache's takes defaults of the wrong type, fastavro takes duplicate fields; and both
    take field names that no Java reader can.

    Raises:
        SchemaFault: with the reason.
    """
    try:
        raw = json.loads(text)
        if not isinstance(raw, (str, dict, list)):
            raise SchemaFault("a schema is a JSON object, array or string")
        fastavro.parse_schema(_without_logical_types(raw), _write_hint=False)
        _check_names(raw)
        return _parse_apache(raw)
    except fastavro.schema.UnknownType as exc:
        raise SchemaFault(f"unknown type {exc}") from exc
    except RecursionError:
        raise SchemaFault("the schema is nested too deeply") from None
    except (ValueError, TypeError, KeyError, AttributeError, avro.errors.AvroException) as exc:
        raise SchemaFault(_reason(exc)) from exc
    except Exception as exc:
        # fastavro's own exceptions have no common base besides Exception
        if type(exc).__module__.startswith("fastavro"):
            raise SchemaFault(_reason(exc)) from exc
        raise


@lru_cache(_PARSED_KEPT)
def parse_leniently(text: str) -> avro.schema.Schema:
    """Parse a schema that is already in a topic, as far as resolution needs it.

    Raises:
        SchemaFault: not even that is possible.
    """
    try:
        return _parse_apache(json.loads(text), strict=False)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, avro.errors.AvroException) as exc:
        raise SchemaFault(_reason(exc)) from exc


def _parse_apache(raw: Any, *, strict: bool = True) -> avro.schema.Schema:
    with warnings.catch_warnings():  # an unknown logical type is only a remark
        warnings.simplefilter("ignore")
        return avro.schema.make_avsc_object(raw, validate_enum_symbols=strict, validate_names=False)


def _without_logical_types(node: Any) -> Any:
    """What to check: one that does not hold for its type, as numeric(3,-2)'s decimal, is no fault but says nothing."""
    if isinstance(node, dict):
        kept = {name: each for name, each in node.items() if name not in ("logicalType", "default")}
        return {name: _without_logical_types(each) for name, each in kept.items()} | (
            {"default": node["default"]} if "default" in node else {}
        )
    return [_without_logical_types(each) for each in node] if isinstance(node, list) else node


def _check_names(node: Any) -> None:
    """Names of fields and types, as Apache's Java checks them: a namespace may have parts that begin with a digit."""
    if isinstance(node, dict):
        for name in (field["name"] for field in node.get("fields") or ()):
            if not _FIELD_NAME.fullmatch(name):
                raise SchemaFault(f"{name!r} is no field name: letters, digits and _, not a digit first")
        if node.get("type") in _NAMED:
            space, _, name = str(node.get("name", "")).rpartition(".")
            if not _FIELD_NAME.fullmatch(name):
                raise SchemaFault(f"{node.get('name')!r} is not a valid name: letters, digits and _, not a digit first")
            if not _NAMESPACE.fullmatch(space or str(node.get("namespace") or "")):
                raise SchemaFault(
                    f"{space or node['namespace']!r} is not a valid namespace: letters, digits, _ and dots"
                )
        node = [node.get("type"), node.get("items"), node.get("values"), *(node.get("fields") or ())]
    if isinstance(node, list):
        for child in node:
            _check_names(child)


def _reason(exc: BaseException) -> str:
    text = str(exc).strip() or type(exc).__name__
    return text if not isinstance(exc, KeyError) else f"attribute {text} is missing"


def check(level: Level, new: str, olds: Sequence[tuple[int, str]], *, strict: bool = True) -> list[Fault]:
    """Check a new schema against older versions.

    Args:
        level: the subject's level.
        new: text of the new schema, self-contained.
        olds: version and self-contained text of every live version, oldest first.
        strict: whether the new schema's defaults and names are checked, too.

    Returns:
        One fault per column and version, newest version first; empty when the new schema may follow.

    Raises:
        SchemaFault: the new schema cannot be parsed.
    """
    candidate = parse(new) if strict else parse_leniently(new)
    if level is Level.NONE:
        return []
    chosen = list(reversed(olds)) if level.transitive else list(olds[-1:])
    faults: list[Fault] = []
    for version, text in chosen:
        faults += _check_pair(level, candidate, text, version)
    return list(dict.fromkeys(faults))


def _check_pair(level: Level, new: avro.schema.Schema, old_text: str, version: int) -> Iterator[Fault]:
    try:
        old = parse_leniently(old_text)
    except SchemaFault as exc:
        yield Fault("UNREADABLE", f"v{version}", f"is no Avro schema ({exc})", "delete that version first", version)
        return
    if level.backward and not can_read(new, old):
        yield from _explain(new, old, version, backward=True)
    if level.forward and not can_read(old, new):
        yield from _explain(old, new, version, backward=False)


def can_read(reader: avro.schema.Schema, writer: avro.schema.Schema) -> bool:
    """Avro's schema resolution: can data of `writer` be read with `reader`?"""
    checker: Any = ReaderWriterCompatibilityChecker
    result = checker().get_compatibility(reader, writer)
    return bool(result.compatibility is SchemaCompatibilityType.compatible)


def _explain(
    reader: avro.schema.Schema, writer: avro.schema.Schema, version: int, *, backward: bool
) -> Iterator[Fault]:
    breaks = f"cannot read the data of v{version}" if backward else f"breaks readers of v{version}"
    walk = _Walk(backward)
    walk.compare(reader, writer, ())
    table = _table(reader)
    for kind, path, change in walk.found:
        yield Fault(kind, _column(table, path), change, breaks, version)
    if not walk.found:  # Apache refuses and our walk does not see why: still a refusal
        yield Fault("TYPE_MISMATCH", table, f"{_label(writer)} → {_label(reader)}", breaks, version)


def _table(schema: avro.schema.Schema) -> str:
    """What a person calls the schema: a table's rows are `shop.public.products.Value`, so: `products`."""
    name = getattr(schema, "name", None)
    if not isinstance(name, str):
        return _label(schema)
    space = str(getattr(schema, "namespace", None) or "")
    return space.rsplit(".", 1)[-1] if name in ("Envelope", "Value", "Key") and space else name


def _column(table: str, path: tuple[str, ...]) -> str:
    """`products.qty`; the two images of a row in an envelope are the same column."""
    return ".".join((table, *(path[1:] if path[:1] and path[0] in _ROW_FIELDS and len(path) > 1 else path)))


class _Walk:
    """Finds the places where a reader cannot read a writer, by field names.

    Attributes:
        found: kind, path of field names, change in words (always from the old schema to the new).
    """

    def __init__(self, backward: bool) -> None:
        self._backward = backward
        self._seen: set[tuple[int, int]] = set()
        self.found: list[tuple[str, tuple[str, ...], str]] = []

    def compare(self, reader: Any, writer: Any, path: tuple[str, ...]) -> None:
        pair = (id(reader), id(writer))
        if (pair in self._seen and _kind(reader) in _NAMED) or can_read(reader, writer):
            return
        self._seen.add(pair)
        if "union" in (_kind(reader), _kind(writer)):
            self._unions(reader, writer, path)
        elif _kind(reader) != _kind(writer):
            self._note("TYPE_MISMATCH", path, reader, writer)
        elif _kind(reader) == "array":
            self.compare(reader.items, writer.items, (*path, "[]"))
        elif _kind(reader) == "map":
            self.compare(reader.values, writer.values, (*path, "{}"))
        else:
            self._named(reader, writer, path)

    def _note(self, kind: str, path: tuple[str, ...], reader: Any, writer: Any) -> None:
        old, new = (writer, reader) if self._backward else (reader, writer)
        self.found.append((kind, path, f"{_label(old)} → {_label(new)}"))

    def _named(self, reader: Any, writer: Any, path: tuple[str, ...]) -> None:
        before = len(self.found)
        if _kind(reader) == "enum":
            self._enum(reader, writer, path)
        elif _kind(reader) == "fixed" and reader.size != writer.size:
            self._note("FIXED_SIZE_MISMATCH", path, reader, writer)
        elif _kind(reader) in ("record", "error"):
            self._record(reader, writer, path)
        if len(self.found) == before:
            old, new = (writer, reader) if self._backward else (reader, writer)
            self.found.append(("NAME_MISMATCH", path, f"{old.fullname} renamed to {new.fullname}"))

    def _enum(self, reader: Any, writer: Any, path: tuple[str, ...]) -> None:
        unknown = [symbol for symbol in writer.symbols if symbol not in reader.symbols]
        if unknown and reader.props.get("default") not in reader.symbols:
            done = "removed" if self._backward else "added, and the old enum has no default"
            self.found.append(("MISSING_ENUM_SYMBOLS", path, f"enum {', '.join(unknown)} {done}"))

    def _record(self, reader: Any, writer: Any, path: tuple[str, ...]) -> None:
        for field in reader.fields:
            other = _writer_field(field, writer)
            if other is not None:
                self.compare(field.type, other.type, (*path, field.name))
            elif not field.has_default:
                change = "added without a default" if self._backward else "removed, and had no default"
                self.found.append(("READER_FIELD_MISSING_DEFAULT_VALUE", (*path, field.name), change))

    def _unions(self, reader: Any, writer: Any, path: tuple[str, ...]) -> None:
        """Follow each branch of the writer to the reader's branch that was meant, and look for the fault there."""
        for branch in _branches(writer):
            if can_read(reader, branch):
                continue
            meant = _meant(branch, _branches(reader))
            if meant is None or _kind(meant) not in (*_NAMED, "array", "map"):
                kind = "MISSING_UNION_BRANCH" if _kind(reader) == "union" else "TYPE_MISMATCH"
                self._note(kind, path, reader, writer)
                return
            self.compare(meant, branch, path)


def _kind(schema: Any) -> str:
    return str(schema.type)


def _branches(schema: Any) -> Sequence[Any]:
    return tuple(schema.schemas) if _kind(schema) == "union" else (schema,)


def _meant(writer: Any, branches: Iterable[Any]) -> Any:
    """The reader's branch that stands for the writer's: same kind, of several the one with the same name."""
    same = [branch for branch in branches if _kind(branch) == _kind(writer)]
    named = [branch for branch in same if getattr(branch, "name", None) == getattr(writer, "name", None)]
    return next(iter(named or same), None)


def _writer_field(field: Any, writer: Any) -> Any:
    names = [field.name, *(field.props.get("aliases") or ())]
    return next((writer.fields_dict[name] for name in names if name in writer.fields_dict), None)


def _label(schema: Any) -> str:
    """A type as a person reads it: `long`, `null|int`, `bytes (decimal)`, `record Value`."""
    kind = _kind(schema)
    if kind == "union":
        return "|".join(_label(branch) for branch in schema.schemas)
    if kind in ("record", "error", "enum"):
        return f"{kind} {schema.name}"
    if kind == "fixed":
        return f"fixed({schema.size})"
    if kind == "array":
        return f"array of {_label(schema.items)}"
    if kind == "map":
        return f"map of {_label(schema.values)}"
    logical = schema.other_props.get("logicalType") or schema.props.get("logicalType")
    return f"{kind} ({logical})" if logical else kind
