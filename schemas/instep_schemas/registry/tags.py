"""Tags that stand in a schema: `confluent:tags` of a record or of a field (pure).

They are addressed by path: `shop.Row` is a record, `shop.Row.email` a field of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from instep_schemas.compatibility import SchemaFault

TAGS: Final = "confluent:tags"
RECORD: Final = "sr_record"
FIELD: Final = "sr_field"
_RECORDS: Final = ("record", "error")


@dataclass(frozen=True, slots=True)
class Tagged:
    """The tags of one record or field.

    Attributes:
        path: full name of the record; for a field followed by `.` and its name.
        kind: `sr_record` or `sr_field`.
        tags: in the order they stand.
    """

    path: str
    kind: str
    tags: tuple[str, ...]

    def body(self) -> dict[str, Any]:
        """As in requests and answers."""
        return {"schemaEntity": {"entityPath": self.path, "entityType": self.kind}, "tags": list(self.tags)}


def tagged(text: str) -> list[Tagged]:
    """Every record and field with tags, in the order of the schema."""
    return [Tagged(path, kind, _tags(node)) for path, kind, node in _entities(json.loads(text), "") if _tags(node)]


def retagged(text: str, add: Sequence[Tagged], remove: Sequence[Tagged]) -> str:
    """The text with tags added, then others taken away.

    Raises:
        SchemaFault: there is no such record or field.
    """
    schema = json.loads(text)
    places = {(path, kind): node for path, kind, node in _entities(schema, "")}
    for place in dict.fromkeys((each.path, each.kind) for each in (*add, *remove)):
        if place not in places:
            raise SchemaFault(f"no {'record' if place[1] == RECORD else 'field'} {place[0]} to tag")
        node = places[place]
        more = [tag for each in add if (each.path, each.kind) == place for tag in each.tags]
        less = {tag for each in remove if (each.path, each.kind) == place for tag in each.tags}
        tags = [tag for tag in dict.fromkeys((*_tags(node), *more)) if tag not in less]
        if tags:
            node[TAGS] = tags
        else:
            node.pop(TAGS, None)
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))


def with_tags_of(text: str, previous: str) -> str:
    """The text with the tags that the previous version has; what it does not have any more loses them."""
    places = {(path, kind) for path, kind, _ in _entities(json.loads(text), "")}
    kept = [each for each in tagged(previous) if (each.path, each.kind) in places]
    return retagged(text, kept, ()) if kept else text


def _tags(node: Mapping[str, Any]) -> tuple[str, ...]:
    tags = node.get(TAGS)
    return tuple(str(tag) for tag in tags) if isinstance(tags, list) else ()


def _entities(node: Any, space: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Path, kind and node of every record and field."""
    if isinstance(node, list):
        for branch in node:
            yield from _entities(branch, space)
    elif isinstance(node, dict):
        kind = node.get("type")
        if kind in _RECORDS:
            yield from _record(node, space)
        elif isinstance(kind, (dict, list)):
            yield from _entities(kind, space)
        else:
            for child in (node.get("items"), node.get("values")):
                yield from _entities(child, space)


def _record(node: dict[str, Any], space: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    name = str(node.get("name"))
    full = name if "." in name else ".".join(filter(None, (str(node.get("namespace", space) or ""), name)))
    yield full, RECORD, node
    for field in node.get("fields", ()):
        yield f"{full}.{field.get('name')}", FIELD, field
        yield from _entities(field.get("type"), full.rpartition(".")[0])
