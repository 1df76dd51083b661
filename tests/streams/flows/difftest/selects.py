"""Random SELECTs over the shop's tables, valid PostgreSQL by construction: what the compiler accepts must be right."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_INT, _NUMERIC, _TEXT, _BOOL, _TIME, _JSON = "int", "numeric", "text", "bool", "time", "json"
TABLES: dict[str, dict[str, str]] = {
    "suppliers": {"id": _INT, "name": _TEXT, "country": _TEXT, "vip": _BOOL},
    "products": {"id": _INT, "sku": _TEXT, "name": _TEXT, "price": _NUMERIC, "supplier_id": _INT, "category": _TEXT,
                 "parent_id": _INT, "attrs": _JSON, "active": _BOOL, "created_at": _TIME},
    "stock_levels": {"id": _INT, "product_id": _INT, "wh": _TEXT, "on_hand": _INT, "reserved": _INT,
                     "reorder_point": _INT},
    "customers": {"id": _INT, "name": _TEXT, "tier": _TEXT},
    "orders": {"id": _INT, "customer_id": _INT, "status": _TEXT, "placed_at": _TIME},
    "order_lines": {"order_id": _INT, "line_no": _INT, "product_id": _INT, "qty": _INT, "price": _NUMERIC},
    "tags": {"id": _INT, "name": _TEXT},
    "product_tags": {"product_id": _INT, "tag_id": _INT},
}  # fmt: skip
KEYS = {"order_lines": ("order_id", "line_no"), "product_tags": ("product_id", "tag_id")}
_LINKS = (
    ("products.supplier_id", "suppliers.id"), ("products.parent_id", "products.id"),
    ("stock_levels.product_id", "products.id"), ("orders.customer_id", "customers.id"),
    ("order_lines.order_id", "orders.id"), ("order_lines.product_id", "products.id"),
    ("product_tags.product_id", "products.id"), ("product_tags.tag_id", "tags.id"),
    ("stock_levels.product_id", "order_lines.product_id"), ("suppliers.country", "products.category"),
)  # fmt: skip
_LITERALS = {
    _INT: ("0", "1", "2", "3", "5", "8", "(-1)"),
    _NUMERIC: ("1.0", "2.50", "0", "10"),
    _TEXT: ("'a'", "'b'", "'DE'", "'open'", "''", "'done'"),
    _BOOL: ("true", "false"),
    _TIME: ("timestamptz '2024-05-01 00:00+00'", "'2024-12-31 23:59:59+00'::timestamptz"),
    _JSON: ("'{}'::jsonb", """'{"hot": true}'::jsonb"""),
}
_ORDERED = (_INT, _NUMERIC, _TEXT, _TIME)


@dataclass(frozen=True)
class Column:
    """A column that can be named: `alias.name`, its type, the table column it copies (`products.id`)."""

    sql: str
    type: str
    origin: str = ""


@dataclass
class Relation:
    """Something in FROM."""

    sql: str
    columns: list[Column]
    key: tuple[str, ...] = ()


class Selects:
    """Draws SELECTs; the same chance gives the same texts.

    Args:
        rnd: the source of chance.
    """

    def __init__(self, rnd: random.Random) -> None:
        self._rnd = rnd
        self._count = 0
        self._ctes: list[tuple[str, str, list[Column]]] = []

    def flow(self) -> str:
        """A flow file."""
        self._count, self._ctes = 0, []
        shape = self._rnd.choice(
            (self._plain, self._grouped, self._grouped, self._distinct_on, self._distinct, self._union)
        )
        key, sql = shape()
        if self._ctes:
            sql = "WITH " + ",\n  ".join(f"{name} AS ({text})" for name, text, _ in self._ctes) + "\n" + sql
        names = ", ".join(f'"{each}"' for each in key)
        return f"/* instep\nkey = [{names}]\n*/\n{sql}\n"

    # -- whole SELECTs ----------------------------------------------------------------------------------------------

    def _plain(self) -> tuple[list[str], str]:
        """One row per row of FROM: the key is that of all its tables that may multiply."""
        root = self._table()
        joined = [root, *self._joins(root, self._rnd.randint(0, 2), ())]
        columns = _columns(joined)
        key = [c for relation in joined for c in relation.columns if c.sql in relation.key]
        names = [f"k{i}" for i in range(len(key))]
        items = [f"{c.sql} AS {name}" for c, name in zip(key, names, strict=True)]
        items += [f"{self._value(columns, window=True)} AS v{i}" for i in range(self._rnd.randint(1, 4))]
        return names[: len(root.key)] if len(joined) == 1 else names, self._select(items, joined, columns)

    def _grouped(self) -> tuple[list[str], str]:
        root = self._table()
        joined = [root, *self._joins(root, self._rnd.randint(0, 3), ())]
        columns = _columns(joined)
        if self._rnd.random() < 0.6:
            key = [c for c in root.columns if c.sql in root.key]
        else:
            key = [self._rnd.choice([c for c in root.columns if c.type in (_INT, _TEXT, _BOOL)])]
        if key[0].type == _TEXT and self._rnd.random() < 0.5:
            key = [Column(f"coalesce(upper({key[0].sql}), '-')", _TEXT)]
        more = [self._rnd.choice([c for c in columns if c.type in (_INT, _TEXT)])] if self._rnd.random() < 0.3 else []
        names = [f"k{i}" for i in range(len(key) + len(more))]
        items = [f"{c.sql} AS {name}" for c, name in zip(key + more, names, strict=True)]
        items += [f"{self._aggregate(columns)} AS v{i}" for i in range(self._rnd.randint(1, 4))]
        having = f" HAVING {self._aggregate(columns, _INT)} > {self._literal(_INT)}" if self._rnd.random() < 0.2 else ""
        group = ", ".join(c.sql for c in key + more)
        return names, f"{self._select(items, joined, columns)} GROUP BY {group}{having}"

    def _distinct_on(self) -> tuple[list[str], str]:
        root = self._table()
        joined = [root, *self._joins(root, self._rnd.randint(1, 2), ())]
        columns = _columns(joined)
        key = self._rnd.choice([c for c in root.columns if c.type == _INT])
        items = [f"{key.sql} AS k0"]
        items += [f"{self._value(columns, self._rnd.choice(_ORDERED))} AS v{i}" for i in range(self._rnd.randint(1, 3))]
        order = ", ".join(str(i + 1) for i in range(len(items)))
        return ["k0"], f"{self._select(items, joined, columns, f'DISTINCT ON ({key.sql}) ')} ORDER BY {order}"

    def _distinct(self) -> tuple[list[str], str]:
        root = self._table()
        joined = [root, *self._joins(root, self._rnd.randint(1, 2), ())]
        columns = _columns(joined)
        chosen = [c for c in root.columns if c.sql in root.key]
        chosen += self._rnd.sample([c for c in columns if c.type in (_INT, _TEXT, _BOOL)], 2)
        items = [f"{c.sql} AS k{i}" for i, c in enumerate(chosen)]
        return [f"k{i}" for i in range(len(chosen))], self._select(items, joined, columns, "DISTINCT ")

    def _union(self) -> tuple[list[str], str]:
        kind = self._rnd.choice(("UNION ALL", "UNION ALL", "UNION"))
        branches = [self._branch(number) for number in range(self._rnd.randint(2, 3))]
        return ["kind", "id"], f"\n{kind} ".join(branches)

    def _branch(self, number: int) -> str:
        root = self._table()
        joined = [root, *self._joins(root, self._rnd.randint(0, 1), ())]
        columns = _columns(joined)
        key = self._rnd.choice([c for c in root.columns if c.type == _INT])
        items = [f"'{number}' AS kind", f"{key.sql}::bigint AS id", f"{self._aggregate(columns, _INT)}::numeric AS v0"]
        return f"{self._select(items, joined, columns)} GROUP BY {key.sql}"

    # -- FROM and WHERE ---------------------------------------------------------------------------------------------

    def _select(self, items: Sequence[str], joined: list[Relation], columns: list[Column], distinct: str = "") -> str:
        sql = f"SELECT {distinct}{', '.join(items)} FROM {' '.join(each.sql for each in joined)}"
        conditions = [self._condition(columns) for _ in range(self._rnd.choice((0, 0, 1, 1, 2)))]
        return f"{sql} WHERE {' AND '.join(conditions)}" if conditions else sql

    def _alias(self, prefix: str = "t") -> str:
        self._count += 1
        return f"{prefix}{self._count}"

    def _table(self, name: str | None = None) -> Relation:
        name = name or self._rnd.choice(list(TABLES))
        alias = self._alias()
        columns = [Column(f"{alias}.{c}", kind, f"{name}.{c}") for c, kind in TABLES[name].items()]
        return Relation(f"{name} {alias}", columns, tuple(f"{alias}.{c}" for c in KEYS.get(name, ("id",))))

    def _joins(self, root: Relation, count: int, outer: Sequence[Column], depth: int = 1) -> Iterator[Relation]:
        visible = list(root.columns)
        for _ in range(count):
            joined = self._join(visible, depth)
            visible += joined.columns
            yield joined

    def _join(self, visible: list[Column], depth: int) -> Relation:
        chance = self._rnd.random()
        if depth and chance < 0.12:
            return self._lateral(visible)
        if depth and chance < 0.30:
            right = self._derived(depth - 1)
        elif depth and chance < 0.42:
            right = self._cte(depth - 1)
        else:
            right = self._table(self._near(visible))
        on = self._link(visible, right.columns)
        if self._rnd.random() < 0.25:
            extra = self._predicate(right.columns if self._rnd.random() < 0.7 else visible + right.columns)
            on += f" {'AND' if self._rnd.random() < 0.92 else 'OR'} {extra}"
        if right.key and self._rnd.random() < 0.1:  # a condition of two equalities
            on += f" AND {self._link(visible, right.columns)}"
        kind = self._rnd.choice(("JOIN", "LEFT JOIN", "LEFT JOIN"))
        return Relation(f"\n  {kind} {right.sql} ON {on}", right.columns, right.key)

    def _near(self, visible: Sequence[Column]) -> str | None:
        origins = {c.origin for c in visible}
        names = [b.split(".")[0] for a, b in self._both_ways() if a in origins]
        return self._rnd.choice(names) if names and self._rnd.random() < 0.9 else None

    @staticmethod
    def _both_ways() -> list[tuple[str, str]]:
        return [*_LINKS, *((b, a) for a, b in _LINKS)]

    def _link(self, left: Sequence[Column], right: Sequence[Column]) -> str:
        ways = set(self._both_ways())
        pairs = [(a, b) for a in left for b in right if (a.origin, b.origin) in ways]
        pairs = pairs or [(a, b) for a in left for b in right if a.type == b.type and a.type in (_INT, _TEXT)]
        if not pairs:
            return "true"
        a, b = self._rnd.choice(pairs)
        equal = f"{a.sql} = {b.sql}" if self._rnd.random() < 0.5 else f"{b.sql} = {a.sql}"
        return equal if self._rnd.random() < 0.95 else f"{a.sql} <= {b.sql}"

    def _derived(self, depth: int) -> Relation:
        alias = self._alias("d")
        sql, columns = self._inner(depth)
        names = [c.sql for c in columns]
        listed = ""
        if self._rnd.random() < 0.2:  # other names, which the SELECT inside has for other columns
            names = names[1:] + names[:1]
            listed = f"({', '.join(names)})"
        outs = [Column(f"{alias}.{name}", c.type, c.origin) for name, c in zip(names, columns, strict=True)]
        return Relation(f"({sql}) {alias}{listed}", outs, ())

    def _cte(self, depth: int) -> Relation:
        if not self._ctes or self._rnd.random() < 0.6:
            sql, columns = self._inner(depth)
            self._ctes.append((self._alias("w"), sql, columns))
        name, _, columns = self._rnd.choice(self._ctes)
        alias = self._alias("c")
        return Relation(f"{name} {alias}", [Column(f"{alias}.{c.sql}", c.type, c.origin) for c in columns], ())

    def _inner(self, depth: int) -> tuple[str, list[Column]]:
        """A derived table: grouped, ranked, chosen, united or plain; its columns are named o0, o1, …"""
        root = self._table()
        joined = [root, *self._joins(root, self._rnd.randint(0, 1), (), depth)]
        columns = _columns(joined)
        key = self._rnd.choice([c for c in (columns if self._rnd.random() < 0.3 else root.columns) if c.type == _INT])
        shape = self._rnd.random()
        out = [Column("o0", _INT, key.origin)]
        if shape < 0.4:
            items = [f"{self._aggregate(columns, _INT)}", f"{self._aggregate(columns, _TEXT)}", f"max({root.key[0]})"]
            outs = [*out, Column("o1", _INT), Column("o2", _TEXT), Column("o3", _INT, _origin(root))]
            return f"{self._select(_named([key.sql, *items]), joined, columns)} GROUP BY {key.sql}", outs
        if shape < 0.6:
            order = ", ".join(root.key)
            rank = f"rank() OVER (PARTITION BY {key.sql} ORDER BY {order})"
            total = f"sum({root.key[0]}) OVER (PARTITION BY {key.sql if self._rnd.random() < 0.6 else order})"
            outs = [*out, Column("o1", _INT), Column("o2", _INT), Column("o3", _INT, _origin(root))]
            return self._select(_named([key.sql, rank, total, root.key[0]]), joined, columns), outs
        if shape < 0.72:
            value = self._rnd.choice([c for c in columns if c.type in (_INT, _TEXT)])
            outs = [*out, Column("o1", value.type, value.origin)]
            on = key if self._rnd.random() < 0.6 else value
            select = self._select(_named([key.sql, value.sql]), joined, columns, f"DISTINCT ON ({on.sql}) ")
            return f"{select} ORDER BY {on.sql}, 1, 2", outs
        value = self._rnd.choice([c for c in columns if c.type in (_INT, _TEXT)])
        outs = [*out, Column("o1", value.type, value.origin)]
        plain = self._select(_named([key.sql, value.sql]), joined, columns, self._rnd.choice(("", "DISTINCT ")))
        if shape < 0.85:
            other = self._table()
            second = self._rnd.choice([c for c in other.columns if c.type == _INT])
            third = self._value(other.columns, value.type)
            cast = "bigint" if value.type == _INT else "text"
            union = self._rnd.choice(("UNION", "UNION ALL"))
            return f"{plain} {union} SELECT {second.sql}, ({third})::{cast} FROM {other.sql}", [
                out[0],
                Column("o1", value.type),
            ]
        return plain + (f" ORDER BY 1, 2 LIMIT {self._rnd.randint(1, 6)}" if shape > 0.96 else ""), outs

    def _lateral(self, visible: list[Column]) -> Relation:
        inner, alias = self._table(self._near(visible)), self._alias("l")
        chosen = self._rnd.sample([c for c in inner.columns if c.type != _JSON], 2)
        outs = [Column(f"{alias}.o{i}", c.type, c.origin) for i, c in enumerate(chosen)]
        limit = f" ORDER BY {', '.join(inner.key)} LIMIT {self._rnd.randint(1, 2)}" if self._rnd.random() < 0.7 else ""
        items = ", ".join(_named([c.sql for c in chosen]))
        body = f"SELECT {items} FROM {inner.sql} WHERE {self._link(visible, inner.columns)}{limit}"
        if self._rnd.random() < 0.2:  # over a derived table: which rows are chosen is decided inside
            d = self._alias("x")
            inside = ", ".join(c.sql for c in inner.columns)
            link = self._link(visible, [Column(f"{d}.{c.sql.split('.')[1]}", c.type, c.origin) for c in inner.columns])
            chosen_names = ", ".join(f"{d}.{c.sql.split('.')[1]} AS o{i}" for i, c in enumerate(chosen))
            body = f"SELECT {chosen_names} FROM (SELECT {inside} FROM {inner.sql}{limit}) {d} WHERE {link}"
        kind, on = self._rnd.choice((("LEFT JOIN", " ON true"), ("CROSS JOIN", "")))
        return Relation(f"\n  {kind} LATERAL ({body}) {alias}{on}", outs, ())

    def _condition(self, columns: list[Column]) -> str:
        chance = self._rnd.random()
        if chance < 0.5:
            return self._predicate(columns)
        if chance < 0.6:
            return f"({self._predicate(columns)} OR {self._predicate(columns)})"
        if chance < 0.66:
            return f"({self._predicate(columns)} OR {self._exists(columns)})"
        if chance < 0.86:
            return self._exists(columns)
        return self._in(columns)

    def _exists(self, columns: list[Column], *, deep: bool = True) -> str:
        inner = self._table(self._near(columns))
        more = list(self._joins(inner, self._rnd.choice((0, 0, 1)), (), 0))
        all_inner = _columns([inner, *more])
        where = f"{self._link(columns, inner.columns)} AND {self._predicate(all_inner)}"
        if deep and self._rnd.random() < 0.2:
            where += f" AND {self._exists([*columns, *all_inner], deep=False)}"
        if self._rnd.random() < 0.1:
            where += f" GROUP BY {self._rnd.choice(inner.columns).sql} HAVING count(*) > 1"
        sources = " ".join(each.sql for each in [inner, *more])
        return f"{self._rnd.choice(('', 'NOT '))}EXISTS (SELECT 1 FROM {sources} WHERE {where})"

    def _in(self, columns: list[Column]) -> str:
        inner = self._table(self._near(columns))
        ways = set(self._both_ways())
        pairs = [(a, b) for a in columns for b in inner.columns if (a.origin, b.origin) in ways]
        pairs = pairs or [(a, b) for a in columns for b in inner.columns if a.type == b.type == _INT]
        if not pairs:
            return "true"
        a, b = self._rnd.choice(pairs)
        no = "NOT " if self._rnd.random() < 0.15 else ""
        where = f"FROM {inner.sql} WHERE {self._predicate(inner.columns)}"
        other = self._rnd.choice([c.sql for c in inner.columns if c.type != _JSON])
        keys = ", ".join(inner.key)
        body = self._rnd.choice(
            (
                *[f"SELECT {b.sql} {where}"] * 4,
                f"SELECT {b.sql} {where} ORDER BY {keys} LIMIT 3",
                f"SELECT DISTINCT ON ({other}) {b.sql} {where} ORDER BY {other}, {keys}",
                f"SELECT {b.sql} {where} GROUP BY {b.sql} HAVING count(*) > 1",
                f"SELECT max({b.sql}) {where}",
                f"SELECT {b.sql} {where} UNION SELECT id FROM suppliers",
            )
        )
        return f"{a.sql} {no}IN ({body})"

    def _predicate(self, columns: Sequence[Column]) -> str:
        c = self._rnd.choice(columns)
        if self._rnd.random() < 0.15:
            return f"{c.sql} IS {self._rnd.choice(('', 'NOT '))}NULL"
        if c.type == _BOOL:
            return self._rnd.choice((c.sql, f"NOT {c.sql}", f"{c.sql} IS NOT TRUE"))
        if c.type == _JSON:
            return f"{c.sql} @> {self._literal(_JSON)}"
        if c.type == _TEXT and self._rnd.random() < 0.3:
            return f"{c.sql} LIKE '%a%'"
        compare = self._rnd.choice(("=", "<>", ">", "<", ">=", "IS DISTINCT FROM"))
        return f"{c.sql} {compare} {self._literal(c.type)}"

    # -- expressions ------------------------------------------------------------------------------------------------

    def _literal(self, kind: str) -> str:
        return self._rnd.choice(_LITERALS[kind])

    def _column(self, columns: Sequence[Column], kind: str) -> str:
        found = [c.sql for c in columns if c.type == kind]
        return self._rnd.choice(found) if found else self._literal(kind)

    def _value(self, columns: Sequence[Column], kind: str | None = None, *, window: bool = False) -> str:
        kind = kind or self._rnd.choice((_INT, _INT, _NUMERIC, _TEXT, _TEXT, _BOOL, _TIME, _JSON))
        if window and kind == _INT and self._rnd.random() < 0.3:
            over = self._column(columns, _INT)
            return (
                f"{self._rnd.choice(('count(*)', f'sum({over})', f'max({over})'))} OVER (PARTITION BY {columns[0].sql})"
            )
        if kind in (_INT, _TEXT) and self._rnd.random() < 0.2:
            return self._scalar(columns, kind)
        c, d = self._column(columns, kind), self._column(columns, kind)
        return self._rnd.choice(self._forms(columns, kind, c, d))

    def _forms(self, columns: Sequence[Column], kind: str, c: str, d: str) -> tuple[str, ...]:
        text, json, time = (self._column(columns, each) for each in (_TEXT, _JSON, _TIME))
        condition = self._predicate(columns)
        case = f"CASE WHEN {condition} THEN {c} ELSE {d} END"
        forms = {
            _INT: (c, f"{c} + {d}", f"coalesce({c}, 0)", f"{c} % 3", f"{c} / 2", f"length({text})",
                   f"extract(year FROM {time})::int", f"({json}->'dims'->>'w')::int"),
            _NUMERIC: (c, f"{c} * 2", f"round({c} / 3, 4)", f"greatest({c}, 1.0)", f"{c}::int::numeric"),
            _TEXT: (c, f"upper({c})", f"{c} || '-' || {d}", f"nullif({c}, 'a')", f"left({c}, 2)",
                    f"{json}->>'color'", f"to_char({time}, 'YYYY-MM')", f"{json} #>> '{{dims,h}}'"),
            _BOOL: (c, f"({condition})", f"({c} AND {d})", f"({c} IS DISTINCT FROM {d})"),
            _TIME: (c, f"date_trunc('month', {c})", f"{c} + interval '1 month'", f"({c}::date)::timestamptz"),
            _JSON: (c, f"jsonb_build_object('a', {text})", f"{c}->'dims'", f"to_jsonb({text})"),
        }[kind]  # fmt: skip
        return (*forms, case)

    def _scalar(self, columns: Sequence[Column], kind: str) -> str:
        inner = self._table(self._near(columns))
        where = self._link(columns, inner.columns)
        if self._rnd.random() < 0.3:
            value, keys = self._column(inner.columns, kind), ", ".join(inner.key)
            return f"(SELECT {value} FROM {inner.sql} WHERE {where} ORDER BY {keys} DESC LIMIT 1)"
        return f"(SELECT {self._aggregate(inner.columns, kind)} FROM {inner.sql} WHERE {where})"

    def _aggregate(self, columns: Sequence[Column], kind: str | None = None) -> str:
        kind = kind or self._rnd.choice((_INT, _NUMERIC, _TEXT, _BOOL, _TIME))
        c = self._column(columns, kind)
        call = self._rnd.choice(
            {
                _INT: ("count(*)", f"count(DISTINCT {c})", f"sum({c})", f"max({c})", f"min({c})", f"count({c})"),
                _NUMERIC: (f"sum({c})", f"round(avg({c}), 3)"),
                _TEXT: (f"string_agg({c}, ',' ORDER BY {c})", f"max({c})", f"min({c})"),
                _BOOL: (f"bool_or({c})", f"bool_and({c})"),
                _TIME: (f"max({c})", f"min({c})"),
            }[kind]
        )
        if call.startswith("round(") or self._rnd.random() > 0.2:
            return call
        return f"{call} FILTER (WHERE {self._predicate(columns)})"


def _columns(joined: Sequence[Relation]) -> list[Column]:
    return [c for relation in joined for c in relation.columns]


def _named(items: Sequence[str]) -> list[str]:
    return [f"{each} AS o{i}" for i, each in enumerate(items)]


def _origin(relation: Relation) -> str:
    return next(c.origin for c in relation.columns if c.sql == relation.key[0])
