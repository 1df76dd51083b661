"""Avro schemas as the registry keeps and compares them: canonical text, references, GUID (pure).

The canonical text is what the Java library prints for a parsed schema, so that a schema registered from Java, from
Python or by hand is one schema with one id. It differs in nothing but white space, attribute order and spelling of
names: documentation, defaults and foreign attributes stay.
"""

from __future__ import annotations

import hashlib
import json
import struct
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from instep_schemas import javatext
from instep_schemas.compatibility import SchemaFault

_PRIMITIVES: Final = frozenset(("null", "boolean", "int", "long", "float", "double", "bytes", "string"))
_RECORDS: Final = ("record", "error")
_NAMED: Final = (*_RECORDS, "enum", "fixed")
_TYPE_RESERVED: Final = frozenset(
    ("doc", "fields", "items", "name", "namespace", "size", "symbols", "values", "type", "aliases")
)
_LOGICAL_TYPES: Final = {
    "uuid": "string",
    "date": "int",
    "time-millis": "int",
    "time-micros": "long",
    "timestamp-millis": "long",
    "timestamp-micros": "long",
    "local-timestamp-millis": "long",
    "local-timestamp-micros": "long",
}
"""Those that Apache's library knows, besides decimal, and the type each belongs to."""
_FIELD_RESERVED: Final = frozenset(("default", "doc", "name", "order", "type", "aliases"))


@dataclass(frozen=True, slots=True)
class Reference:
    """A schema registered under another subject that this one uses by name."""

    name: str
    subject: str
    version: int

    def body(self) -> dict[str, Any]:
        """As in requests and answers."""
        return {"name": self.name, "subject": self.subject, "version": self.version}


@dataclass(frozen=True, slots=True)
class Content:
    """What one id stands for: equal contents have one id, and one GUID in every registry.

    Attributes:
        text: canonical schema text.
        references: in the order given.
        metadata: `{tags, properties, sensitive}`, or None.
        rule_set: `{migrationRules, domainRules, encodingRules, enableAt}`, or None.
        guid: made from all of them.
    """

    text: str
    references: tuple[Reference, ...] = ()
    metadata: Mapping[str, Any] | None = None
    rule_set: Mapping[str, Any] | None = None
    guid: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "guid", str(uuid.UUID(bytes=self.digest())))

    def digest(self) -> bytes:
        """MD5 over text, references, metadata and rules, in the order every registry of this family uses."""
        md5 = hashlib.md5(self.text.encode(), usedforsecurity=False)
        for reference in self.references:
            md5.update(reference.name.encode() + reference.subject.encode() + struct.pack(">i", reference.version))
        for part, pieces in ((self.metadata, _metadata_pieces), (self.rule_set, _rule_set_pieces)):
            if part is not None:
                md5.update(b"\x01" + "".join(pieces(part)).encode())
        return md5.digest()


def _metadata_pieces(metadata: Mapping[str, Any]) -> Iterator[str]:
    for key, tags in sorted((metadata.get("tags") or {}).items()):
        yield from (key, *sorted(tags or ()))
    for key, value in sorted((metadata.get("properties") or {}).items()):
        yield from (key, str(value))
    yield from sorted(metadata.get("sensitive") or ())


def _rule_set_pieces(rule_set: Mapping[str, Any]) -> Iterator[str]:
    for kind in ("migrationRules", "domainRules", "encodingRules"):
        for rule in rule_set.get(kind) or ():
            yield from _rule_pieces(rule)
    yield rule_set.get("enableAt") or ""


def _rule_pieces(rule: Mapping[str, Any]) -> Iterator[str]:
    yield from (rule.get("name") or "", rule.get("doc") or "")
    yield from (rule.get("kind") or "TRANSFORM", rule.get("mode") or "WRITEREAD", rule.get("type") or "")
    yield from sorted(rule.get("tags") or ())
    for key, value in sorted((rule.get("params") or {}).items()):
        yield from (key, str(value))
    yield from (rule.get("expr") or "", rule.get("onSuccess") or "", rule.get("onFailure") or "")
    if rule.get("disabled"):
        yield "\x01"


def canonical(text: str, *, normalize: bool = False) -> str:
    """The text under which a valid schema is kept; `normalize` also sorts what has no order of its own.

    That is aliases and foreign attributes, at every depth; a logical type's attributes come before the others.

    Raises:
        SchemaFault: not JSON, or not shaped like a schema.
    """
    return _print(text, {}, normalize)


def resolved(text: str, referenced: Sequence[str]) -> str:
    """One self-contained text: each name that only a referenced schema defines is replaced by its definition.

    Args:
        text: the schema.
        referenced: the texts it references, those they reference included.

    Raises:
        SchemaFault: not JSON, or not shaped like a schema.
    """
    definitions: dict[str, tuple[Any, str]] = {}
    for other in referenced:
        for fullname, node, space in _definitions(_load(other), ""):
            definitions.setdefault(fullname, (node, space))
    return _print(text, definitions, False)


def _print(text: str, definitions: Mapping[str, tuple[Any, str]], normalize: bool) -> str:
    try:
        printed = _Printer(definitions, normalize).type(_load(text), "")
        return javatext.json_text(printed)
    except RecursionError:
        raise SchemaFault("the schema is nested too deeply") from None
    except (KeyError, TypeError, AttributeError, ValueError) as exc:
        raise SchemaFault(f"the schema is malformed: {exc}") from exc


def _load(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as exc:
        raise SchemaFault(str(exc)) from exc
    except RecursionError:
        raise SchemaFault("the schema is nested too deeply") from None


def _qualify(node: Mapping[str, Any], space: str) -> tuple[str, str]:
    """Namespace and name of a definition that stands inside `space`."""
    name = str(node["name"])
    if "." in name:
        inner, _, name = name.rpartition(".")
        return inner, name
    return str(node.get("namespace", space) or ""), name


def _fullname(space: str, name: str) -> str:
    return name if "." in name or not space else f"{space}.{name}"


def _within(space: str, full: str) -> str:
    """A full name as it is written inside a namespace."""
    inner, _, bare = full.rpartition(".")
    return bare if inner == space else full


def _definitions(node: Any, space: str) -> Iterator[tuple[str, Any, str]]:
    """Every named type that a schema defines: full name, node, enclosing namespace."""
    if isinstance(node, list):
        for branch in node:
            yield from _definitions(branch, space)
    elif isinstance(node, dict):
        kind, inner = node.get("type"), space
        if isinstance(kind, (dict, list)):
            yield from _definitions(kind, space)
            return
        if kind in _NAMED:
            inner, name = _qualify(node, space)
            yield _fullname(inner, name), node, space
        for child in (*(f.get("type") for f in node.get("fields", ())), node.get("items"), node.get("values")):
            yield from _definitions(child, inner)


class _Printer:
    """Writes a schema with the Java library's attribute order."""

    def __init__(self, definitions: Mapping[str, tuple[Any, str]], normalize: bool) -> None:
        self._definitions = definitions
        self._normalize = normalize
        self._seen: set[str] = set()

    def type(self, node: Any, space: str) -> Any:
        if isinstance(node, list):
            return [self.type(branch, space) for branch in node]
        if isinstance(node, str):
            return self._name(node, space)
        kind = node["type"]
        if isinstance(kind, (dict, list)):  # {"type": {"type": …}}: the inner one is the schema
            return self.type(kind, space)
        if kind in _NAMED:
            return self._named(node, space)
        if kind == "array":
            return {"type": kind, "items": self.type(node["items"], space), **self._others(node)}
        if kind == "map":
            return {"type": kind, "values": self.type(node["values"], space), **self._others(node)}
        others = self._others(node)
        printed = self._name(kind, space)
        return {"type": printed, **others} if others and kind in _PRIMITIVES else printed

    def _name(self, name: str, space: str) -> Any:
        if name in _PRIMITIVES:
            return name
        full = _fullname(space, name)
        if full not in self._seen and full not in self._definitions and name in self._definitions:
            full = name  # a name without a namespace, used inside one
        if full not in self._seen and full in self._definitions:
            node, _ = self._definitions[full]
            inner, bare = _qualify(node, self._definitions[full][1])
            return self._named({**node, "name": bare, "namespace": inner}, space)
        inner, _, bare = full.rpartition(".")
        return full if inner != space else bare

    def _named(self, node: Mapping[str, Any], space: str) -> Any:
        kind = node["type"]
        inner, name = _qualify(node, space)
        full = _fullname(inner, name)
        if full in self._seen and full in self._definitions:  # written out already, where it was used first
            return full if inner != space else name
        self._seen.add(full)
        printed: dict[str, Any] = {"type": kind, "name": name}
        if inner != space:
            printed["namespace"] = inner
        if node.get("doc") is not None and (node["doc"] or not self._normalize):
            printed["doc"] = node["doc"]
        if kind in _RECORDS:
            printed["fields"] = [self._field(child, inner) for child in node["fields"]]
        elif kind == "enum":
            printed["symbols"] = node["symbols"]
            if "default" in node:
                printed["default"] = node["default"]
        else:
            printed["size"] = node["size"]
        printed |= self._others(node, {"default"} if kind == "enum" else frozenset())
        if node.get("aliases"):
            aliases = [_fullname(inner, alias) for alias in node["aliases"]]
            printed["aliases"] = [_within(inner, alias) for alias in (sorted(aliases) if self._normalize else aliases)]
        return printed

    def _field(self, node: Mapping[str, Any], space: str) -> dict[str, Any]:
        printed: dict[str, Any] = {"name": node["name"], "type": self.type(node["type"], space)}
        if node.get("doc") is not None:
            printed["doc"] = node["doc"]
        if "default" in node:
            printed["default"] = _deeply_sorted(node["default"]) if self._normalize else node["default"]
        if node.get("order", "ascending") != "ascending":
            printed["order"] = node["order"]
        if node.get("aliases"):
            printed["aliases"] = sorted(node["aliases"]) if self._normalize else node["aliases"]
        others = {k: v for k, v in node.items() if k not in _FIELD_RESERVED}
        return {**printed, **self._sorted(others)}

    def _others(self, node: Mapping[str, Any], reserved: frozenset[str] | set[str] = frozenset()) -> dict[str, Any]:
        others = self._sorted({k: v for k, v in node.items() if k not in _TYPE_RESERVED and k not in reserved})
        return {name: others[name] for name in _logical(node)} | others if self._normalize else others

    def _sorted(self, attributes: dict[str, Any]) -> dict[str, Any]:
        return {k: _deeply_sorted(attributes[k]) for k in sorted(attributes)} if self._normalize else attributes


def _logical(node: Mapping[str, Any]) -> list[str]:
    """The attributes of a logical type that holds for its type, in the order of Apache's library."""
    logical, kind = node.get("logicalType"), node.get("type")
    if logical != "decimal":
        of_fixed = logical == "uuid" and kind == "fixed" and node.get("size") == 16
        known = isinstance(logical, str) and _LOGICAL_TYPES.get(logical) == kind
        return ["logicalType"] if known or of_fixed else []
    precision, scale = node.get("precision"), node.get("scale", 0)
    most = 2**31 if kind == "bytes" else _digits(node.get("size", 0)) if kind == "fixed" else 0
    if not isinstance(precision, int) or not isinstance(scale, int) or not 0 <= scale <= precision <= most:
        return []
    return ["logicalType", "precision", *(["scale"] if scale else [])] if precision else []


def _digits(size: int) -> int:
    """How many decimal digits fit into so many bytes."""
    return len(str(2 ** (8 * size - 1) - 1)) - 1


def _deeply_sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _deeply_sorted(value[name]) for name in sorted(value)}
    return [_deeply_sorted(item) for item in value] if isinstance(value, list) else value
