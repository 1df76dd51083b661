"""Source text of generated decoders: Avro to PostgreSQL texts, field by field."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from instep.change import ABSENT
from instep_schemas import standins
from instep_schemas.ciphers import opening
from instep_schemas.mapping import Avro
from instep_schemas.standins import kind_of
from instep_schemas.texts import reader_of, zoned_text
from instep_schemas.varint import read_long
from instep_schemas.wire import CIPHER, Cipher

_JSON: Final = "io.debezium.data.Json"
_SMALL: Final = [str((number >> 1) ^ -(number & 1)) for number in range(128)]
SOURCE: Final = {"ts_ms": "None", "ts_us": "None", "lsn": "None", "txId": "None", "snapshot": "'false'"}
"""What a decoder reads of the source block, and what it takes where that is missing."""


def column_name(field: Mapping[str, Any]) -> str:
    """A field's column as PostgreSQL names it."""
    name: str = field.get("pg.name", field["name"])
    return name


def told_as_json(field: Mapping[str, Any]) -> bool:
    """Whether it is JSON in a topic that Debezium's profile wrote: it may be an hstore's."""
    return "pg.type" not in field and _JSON in str(field["type"])


class Code:
    """Source text of a decoder: `d` is the data, `p` where the reader stands.

    Args:
        unavailable: the placeholder of an unchanged TOAST column; None in a key, where nothing is ever absent.
    """

    def __init__(self, unavailable: str | None) -> None:
        self.lines: list[str] = []
        self.unavailable = unavailable
        self.names: dict[str, Any] = {
            "ABSENT": ABSENT,
            "SMALL": _SMALL,
            "more": read_long,
            "zoned": zoned_text,
            "PLACEHOLDER": unavailable,
        }

    def add(self, line: str) -> None:
        """One line of it."""
        self.lines.append(line)

    def compile(self, name: str) -> Any:
        """The function of that name."""
        exec(compile("\n".join(self.lines), "<generated decoder>", "exec"), self.names)
        return self.names[name]

    def image(self, name: str, union: Any, columns: Collection[str] | None) -> None:
        """The old or the new row."""
        record = next(each for each in union if each != "null")
        identity = record.get("pg.identity")
        unknown: frozenset[str] = frozenset()
        if name == "before" and identity is not None:
            unknown = frozenset(field["name"] for field in record["fields"]) - frozenset(identity)
        self.add(f" {name} = None")
        self.add(" p += 1")
        self.add(f" if d[p - 1] == {union.index(record) << 1}:")
        self.row(2, name, record["fields"], columns, unknown)

    def row(
        self,
        depth: int,
        target: str,
        fields: list[dict[str, Any]],
        columns: Collection[str] | None,
        unknown: frozenset[str],
    ) -> None:
        """A record's fields into a dictionary of texts."""
        items = [f"{name!r}: {told}" for name, told in self.texts(depth, fields, columns, unknown)]
        self.add(f"{' ' * depth}{target} = {{{', '.join(items)}}}")

    def texts(
        self,
        depth: int,
        fields: list[dict[str, Any]],
        columns: Collection[str] | None = None,
        unknown: Collection[str] = (),
    ) -> list[tuple[str, str]]:
        """Read a record's fields; gives the columns and the expressions that hold their texts."""
        items: list[tuple[str, str]] = []
        for number, field in enumerate(fields):
            column = column_name(field)
            if columns is not None and column not in columns:
                self.skip(depth, field["type"])
            elif field["name"] in unknown:
                self.skip(depth, field["type"])
                items.append((column, "ABSENT"))
            else:
                self.value(depth, f"v{number}", field["type"])
                if self.unavailable is not None and told_as_json(field):
                    self.pair(depth, f"v{number}")
                if CIPHER in field:
                    self.opened(depth, f"v{number}", Cipher(**field[CIPHER]), column)
                items.append((column, f"v{number}"))
        return items

    def value(self, depth: int, target: str, avro: Any) -> None:
        """One column."""
        pad = " " * depth
        if isinstance(avro, list):
            branch = 0 if avro[1] == "null" else 1
            self.add(f"{pad}p += 1")
            self.add(f"{pad}if d[p - 1] != {branch << 1}:")
            self.add(f"{pad} {target} = None")
            self.add(f"{pad}else:")
            self.value(depth + 1, target, avro[branch])
            return
        kind, name = kind_of(avro)
        if kind == "string" and name in AS_IS:
            self.text(depth, target)
        elif name == "io.debezium.time.ZonedTimestamp":
            self.string(depth, target)
            usual = f"n == 27 and {target}[10] == 'T' and {target}[25] != '0' and {target}[26] == 'Z'"
            self.add(f"{pad}{target} = f'{{{target}[:10]}} {{{target}[11:26]}}+00' if {usual} else zoned({target})")
        elif kind == "boolean" and not name:
            self.add(f"{pad}{target} = 't' if d[p] else 'f'")
            self.add(f"{pad}p += 1")
        elif kind in ("int", "long") and not name:
            self.number(depth, target, f"{target} = str({target})", "SMALL")
        else:
            self.read(depth, target, avro)

    def pair(self, depth: int, target: str) -> None:
        """JSON of a topic that Debezium's profile wrote: an hstore that has not changed is ABSENT, too."""
        self.names["PAIR"] = standins.pair(self.unavailable or "")
        self.add(f"{' ' * depth}if {target} == PAIR: {target} = ABSENT")

    def opened(self, depth: int, target: str, cipher: Cipher, column: str) -> None:
        """The text of an encrypted column; neither null nor absent is encrypted, nor a filler."""
        function = f"o{len(self.names)}"
        self.names[function] = opening(cipher, column)
        self.add(f"{' ' * depth}if {target} and {target} is not ABSENT: {target} = {function}({target})")

    def text(self, depth: int, target: str) -> None:
        """A string column; the placeholder is ABSENT."""
        pad = " " * depth
        self.string(depth, target)
        if self.unavailable is not None:
            self.add(f"{pad}if n == {len(self.unavailable.encode())} and {target} == PLACEHOLDER: {target} = ABSENT")

    def string(self, depth: int, target: str) -> None:
        """Any string."""
        pad = " " * depth
        self._length(pad)
        self.add(f"{pad}{target} = d[p:p + n].decode()")
        self.add(f"{pad}p += n")

    def _length(self, pad: str) -> None:
        self.add(f"{pad}n = d[p]")
        self.add(f"{pad}if n > 127: n, p = more(d, p)")
        self.add(f"{pad}else: n >>= 1; p += 1")

    def number(self, depth: int, target: str, large: str = "", small: str = "") -> None:
        """An int or long; `small` is a table for those of one byte."""
        pad = " " * depth
        self.add(f"{pad}n = d[p]")
        self.add(f"{pad}if n > 127:")
        self.add(f"{pad} {target}, p = more(d, p)")
        if large:
            self.add(f"{pad} {large}")
        value = f"{small}[n]" if small else "(n >> 1) ^ -(n & 1)"
        self.add(f"{pad}else: {target} = {value}; p += 1")

    def read(self, depth: int, target: str, avro: Avro) -> None:
        """Any other column, by its reader; a type that may be toasted first looks for its placeholder."""
        pad = " " * depth
        reader = f"r{len(self.names)}"
        self.names[reader] = reader_of(avro)
        placeholder = None if self.unavailable is None else standins.placeholder(avro, self.unavailable)
        if placeholder is None:
            self.add(f"{pad}{target}, p = {reader}(d, p)")
            return
        constant = f"k{len(self.names)}"
        self.names[constant] = placeholder
        self.add(f"{pad}if d.startswith({constant}, p): {target} = ABSENT; p += {len(placeholder)}")
        self.add(f"{pad}else: {target}, p = {reader}(d, p)")

    def source(self, record: dict[str, Any]) -> None:
        """The source block: five of its fields are read, the rest is skipped.

        All changes of one transaction share the same bytes but for `sequence` and `lsn`: each run of fields between
        those is remembered with what it meant, and recognised as a whole.
        """
        run: list[dict[str, Any]] = []
        for field in record["fields"]:
            if field["name"] in ("sequence", "lsn"):
                self._run(run)
                self._source_field(1, field)
                run = []
            else:
                run.append(field)
        for field in run:
            self._source_field(1, field)

    def _run(self, fields: list[dict[str, Any]]) -> None:
        memory = f"m{len(self.names)}"
        self.names[memory] = [(b"\xff" * 11,)]  # no varint is that long: matches nothing
        told = ", ".join(field["name"] for field in fields if field["name"] in SOURCE)
        self.add(f" run = {memory}[0]")
        self.add(" if d.startswith(run[0], p):")
        self.add("  p += len(run[0])")
        if told:
            self.add(f"  _, {told} = run")
        self.add(" else:")
        self.add("  start = p")
        for field in fields:
            self._source_field(2, field)
        self.add(f"  {memory}[0] = (d[start:p], {told})")

    def _source_field(self, depth: int, field: dict[str, Any]) -> None:
        name, avro, pad = field["name"], field["type"], " " * depth
        if name not in SOURCE:
            self.skip(depth, avro)
            return
        if isinstance(avro, list):
            branch = 0 if avro[1] == "null" else 1
            avro = avro[branch]
            self.add(f"{pad}p += 1")
            self.add(f"{pad}if d[p - 1] == {branch << 1}:")
            depth += 1
        if kind_of(avro)[0] == "string":
            self.string(depth, name)
        else:
            self.number(depth, name)

    def skip(self, depth: int, avro: Any) -> None:
        """Step over a value."""
        pad = " " * depth
        if isinstance(avro, list):
            self.add(f"{pad}p += 1")
            for branch, each in enumerate(avro):
                if each != "null":
                    self.add(f"{pad}if d[p - 1] == {branch << 1}:")
                    self.skip(depth + 1, each)
            return
        kind, _ = kind_of(avro)
        if kind in ("int", "long"):
            self.add(f"{pad}while d[p] > 127: p += 1")
            self.add(f"{pad}p += 1")
        elif kind in ("string", "bytes"):
            self._length(pad)
            self.add(f"{pad}p += n")
        elif kind in FIXED_SIZES:
            self.add(f"{pad}p += {FIXED_SIZES[kind]}")
        elif kind == "record":
            self.add(f"{pad}pass")
            for field in avro["fields"]:
                self.skip(depth, field["type"])
        else:
            self._skip_blocks(depth, avro)

    def _skip_blocks(self, depth: int, avro: Any) -> None:
        """An array or map: blocks of items until a count of 0."""
        pad, counter = " " * depth, f"i{depth}"
        self.add(f"{pad}{counter}, p = more(d, p)")
        self.add(f"{pad}while {counter}:")
        self.add(f"{pad} if {counter} < 0: {counter} = -{counter}; n, p = more(d, p)")
        self.add(f"{pad} for _ in range({counter}):")
        if avro["type"] == "map":
            self.skip(depth + 2, "string")
        self.skip(depth + 2, avro["items"] if avro["type"] == "array" else avro["values"])
        self.add(f"{pad} {counter}, p = more(d, p)")


FIXED_SIZES: Final = {"boolean": 1, "float": 4, "double": 8, "null": 0}
"""Bytes of an Avro type that always has as many."""
AS_IS: Final = frozenset(
    {
        "",
        "io.debezium.data.Json",
        "io.debezium.data.Xml",
        "io.debezium.data.Uuid",
        "io.debezium.data.Enum",
        "io.debezium.data.Ltree",
        "io.debezium.data.Tsvector",
        "io.debezium.time.Interval",
    }
)
"""Connect names of strings that are PostgreSQL's text already."""
