"""Values of every type that a PostgreSQL server has: texts of its base types, and what is made of those.

Drawn by `random.Random`, which costs nothing beside the store: awkward values first, then any.
"""

from __future__ import annotations

import itertools
import json
import random
import struct
import uuid
from collections.abc import Callable, Sequence

from instep_schemas.wire import UNAVAILABLE

WITHOUT_VALUES = frozenset(
    "pg_node_tree pg_ndistinct pg_dependencies pg_mcv_list pg_brin_bloom_summary pg_brin_minmax_multi_summary "
    "gtsvector".split()
)
"""Types that take no text: no table can be filled with them."""

Draw = Callable[[random.Random], str]
_ALPHABET = "ab \"'\\{}[](),;:=%\t\n\x01é€\U0001f600"


def _text(luck: random.Random) -> str:
    return "".join(luck.choices(_ALPHABET, k=luck.randrange(9)))


def _whole(bits: int) -> Draw:
    return lambda luck: str(luck.randrange(-(1 << bits - 1), 1 << bits - 1) >> luck.choice([0, bits // 2]))


def _unsigned(bits: int) -> Draw:
    return lambda luck: str(luck.getrandbits(luck.choice([bits, bits // 2])))


def _bits(least: int) -> Draw:
    return lambda luck: "".join(luck.choices("01", k=luck.randrange(least, 21)))


def _numeric(luck: random.Random) -> str:
    digits = "".join(luck.choices("0123456789", k=luck.randrange(1, 60)))
    at = luck.randrange(len(digits) + 1)
    return f"{luck.choice(['', '-'])}{digits[:at] or '0'}.{digits[at:] or '0'}"


def _json(luck: random.Random) -> str:
    return json.dumps({_text(luck): [luck.randrange(9), None, {"x": _text(luck)}], "n": luck.random()})


def _single(luck: random.Random) -> str:
    (number,) = struct.unpack("<f", luck.randbytes(4))
    return repr(number)


def _double(luck: random.Random) -> str:
    (number,) = struct.unpack("<d", luck.randbytes(8))
    return repr(number)


def _small(luck: random.Random) -> str:
    return repr(luck.randrange(-1000, 1000) / 8)


def _point(luck: random.Random) -> str:
    return f"({_small(luck)},{_small(luck)})"


def _points(opening: str, closing: str) -> Draw:
    return lambda luck: f"{opening}{','.join(_point(luck) for _ in range(luck.randrange(1, 4)))}{closing}"


def _day(luck: random.Random) -> str:
    year = luck.choice([luck.randrange(1, 10_000), luck.randrange(1900, 2100)])
    return f"{year:04d}-{luck.randrange(1, 13):02d}-{luck.randrange(1, 29):02d}"


def _clock(luck: random.Random) -> str:
    micros = luck.choice([0, luck.randrange(1_000_000), luck.randrange(1000) * 1000])
    return f"{luck.randrange(24):02d}:{luck.randrange(60):02d}:{luck.randrange(60):02d}.{micros:06d}"


def _moment(luck: random.Random) -> str:
    return f"{_day(luck)} {_clock(luck)}"


def _interval(luck: random.Random) -> str:
    parts = (f"{luck.randrange(-99, 99)} {part}" for part in ("years", "mons", "days", "hours"))
    return f"{' '.join(parts)} {luck.randrange(-(10**9), 10**9)} microseconds"


def _vector(luck: random.Random) -> str:
    return " ".join(f"{luck.choice('abc')}{number}:{number + 1}A" for number in range(luck.randrange(1, 4)))


_DATES = ["infinity", "-infinity", "4713-01-01 BC", "5874897-12-31", "0044-03-15 BC"]
_CLOCKS = ["24:00:00", "00:00:00", "23:59:59.999999"]
_MOMENTS = [
    "infinity", "-infinity", "4713-01-01 00:00:00 BC", "0001-12-31 23:59:59.5 BC", "294276-12-31 23:59:59.999999",
    "294247-01-10 04:00:54.775807", "294247-01-10 04:00:25.2",
]  # fmt: skip
_TEXTS = ["", "NULL", '"', "\\", "{}", " a ", UNAVAILABLE]
_JSONS = ['{"k" :  1e400}', "123456789012345678901234567890.10", json.dumps(UNAVAILABLE), "null", "[]"]

BASE: dict[str, tuple[Sequence[str], Draw | None]] = {
    "bool": (["t", "f"], None),
    "bytea": (["\\x" + UNAVAILABLE.encode().hex(), "\\x"], lambda luck: "\\x" + luck.randbytes(5).hex()),
    "char": (["x", "", "\\377", "'"], None),
    "name": (["", UNAVAILABLE], _text),
    **dict.fromkeys(("text", "bpchar", "varchar"), (_TEXTS, _text)),
    **{f"int{n}": ([str(-(1 << 8 * n - 1)), str((1 << 8 * n - 1) - 1)], _whole(8 * n)) for n in (2, 4, 8)},
    **dict.fromkeys(("oid", "xid", "cid"), (["4294967295"], _unsigned(32))),
    "xid8": (["18446744073709551615"], _unsigned(64)),
    **dict.fromkeys(("json", "jsonb"), (_JSONS, _json)),
    "float4": (["NaN", "Infinity", "-Infinity", "-0", "1e-45", "3.4028235e+38"], _single),
    "float8": (["NaN", "Infinity", "-Infinity", "-0", "5e-324", "1.7976931348623157e+308"], _double),
    "numeric": (["NaN", "Infinity", "-Infinity", "-0.00", "1e100", "1e-100", "0.10"], _numeric),
    "money": (["-92233720368547758.08", "92233720368547758.07", "-0.01"], lambda luck: f"{luck.randrange(9999)}.05"),
    "point": (["(NaN,Infinity)", "(-0,1e+300)"], _point),
    "lseg": (["[(0,-0),(1,1)]"], lambda luck: f"[{_point(luck)},{_point(luck)}]"),
    "box": (["(1,1),(0,0)"], lambda luck: f"{_point(luck)},{_point(luck)}"),
    "path": (["[(0,0)]"], _points("[", "]")), "polygon": (["((0,0))"], _points("(", ")")),
    "circle": (["<(0,0),0>"], lambda luck: f"<{_point(luck)},{luck.randrange(99)}>"),
    "line": (["{1,2,3}", "{0,-1,0.5}"], None),
    "date": (_DATES, _day), "time": (_CLOCKS, _clock), "timestamp": (_MOMENTS, _moment),
    "timestamptz": (
        [each if "inf" in each else each.replace(" BC", "+00 BC") if "BC" in each else each + "+00"
         for each in _MOMENTS], lambda luck: f"{_moment(luck)}+00"),
    "timetz": (["24:00:00-15:59:59", "00:00:00+12:34:56"], lambda luck: f"{_clock(luck)}+05:30"),
    "interval": (["infinity", "-infinity", "0", "1 year 2 mons -3 days 04:05:06.789", "-1 mons +2 days -00:00:01",
                  "178956970 years 7 mons", "-00:00:00.000001"], _interval),
    "bit": (["0"], _bits(1)), "varbit": (["", "1"], _bits(0)),
    "uuid": ([str(uuid.UUID(int=0))], lambda luck: str(uuid.UUID(int=luck.getrandbits(128)))),
    "pg_lsn": (["0/0", "FFFFFFFF/FFFFFFFF"], lambda luck: f"{luck.getrandbits(32):X}/{luck.getrandbits(32):X}"),
    "tsvector": (["", "'a b':1A 'it''s':2"], _vector), "tsquery": (["'a' & !'b' <2> 'c':*A"], None),
    "inet": (["192.168.0.1/24", "::1", "::ffff:1.2.3.4/120"], None), "cidr": (["10.0.0.0/8", "2001:db8::/32"], None),
    "macaddr": (["08:00:2b:01:02:03"], None), "macaddr8": (["08:00:2b:01:02:03:04:05"], None),
    "xml": (["<a>€</a>", "a<b/>", UNAVAILABLE], None), "jsonpath": (['$."a"[*]?(@ > 1)', "strict $"], None),
    "int2vector": (["1 2 3", ""], None), "oidvector": (["1 4294967295", ""], None),
    "pg_snapshot": (["10:20:10,14", "1:1:"], None), "txid_snapshot": (["10:20:10,14"], None),
    "tid": (["(0,1)", "(4294967295,65535)"], None), "refcursor": (["", UNAVAILABLE], None),
    "aclitem": (["=r/pg_monitor", "pg_monitor=r*w/pg_monitor"], None),
    "regproc": (["now", "-"], None), "regprocedure": (["abs(integer)", "-"], None),
    "regoper": (["||/", "0"], None), "regoperator": (["+(integer,integer)", "0"], None),
    "regclass": (["pg_class", "4294967295", "-"], None), "regcollation": (['"C"'], None),
    "regtype": (["integer", "text[]"], None), "regrole": (["pg_monitor", "-"], None),
    "regnamespace": (["pg_catalog"], None), "regconfig": (["english", "simple"], None),
    "regdictionary": (["simple"], None), "regdatabase": (["template1"], None),
}  # fmt: skip
"""For each base type the awkward texts, and how to draw another one."""

Shape = tuple[int, ...]


def drawn(name: str, count: int, luck: random.Random) -> list[str]:
    """So many texts of a base type."""
    known, draw = BASE[name]
    if draw is None:
        return list(itertools.islice(itertools.cycle(known), count))
    return [*known, *(draw(luck) for _ in range(count - len(known)))][:count]


def literal(text: str) -> str:
    """An SQL string."""
    quoted = text.replace("\\", "\\\\").replace("'", "''")
    return f"E'{quoted}'"


def arrays(items: Sequence[str], delimiter: str, count: int, luck: random.Random) -> list[str]:
    """Array literals: empty, a plain list, and any dimensions from any lower bounds, with NULLs between."""
    found = ["{}", _array((len(items),), (1,), items, delimiter)]
    while len(found) < count:
        shape = tuple(luck.randrange(1, 4) for _ in range(luck.choice([1, 1, 2, 3])))
        lower = tuple(luck.choice([1, 1, 1, 0, -3, 7]) for _ in shape)
        found.append(_array(shape, lower, [luck.choice([None, *items]) for _ in range(27)], delimiter))
    return found


def _array(shape: Shape, lower: Sequence[int], items: Sequence[str | None], delimiter: str) -> str:
    remaining = iter(items)

    def part(depth: int) -> str:
        if depth == len(shape):
            item = next(remaining)
            return "NULL" if item is None else '"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"'
        return "{" + delimiter.join(part(depth + 1) for _ in range(shape[depth])) + "}"

    bounds = "".join(f"[{low}:{low + size - 1}]" for low, size in zip(lower, shape, strict=True))
    return ("" if set(lower) == {1} else f"{bounds}=") + part(0)
