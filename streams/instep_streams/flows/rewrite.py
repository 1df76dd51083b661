"""The same SELECT in the words that the analysis follows: rewritten in place, before names are resolved."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from sqlglot import exp

from instep_streams.flows.blocks import owner
from instep_streams.flows.catalog import DEFAULT_SCHEMA, Catalog


def quantified_as_in(tree: exp.Expr) -> None:
    """`x = ANY (SELECT …)` is `x IN (SELECT …)`, and `x <> ALL (SELECT …)` is its NOT."""
    for compared in list(tree.find_all(exp.EQ, exp.NEQ)):
        quantified, wanted = compared.expression, exp.Any if isinstance(compared, exp.EQ) else exp.All
        query = quantified.this.unnest() if isinstance(quantified, wanted) else None
        if isinstance(query, exp.Query):
            found = exp.In(this=compared.this, query=exp.Subquery(this=query))
            compared.replace(found if wanted is exp.Any else exp.Not(this=found))


def split_row_equalities(tree: exp.Expr) -> None:
    """`(a, b) = (c, d)` is `a = c AND b = d`, also where something is NULL."""
    for equality in list(tree.find_all(exp.EQ)):
        left, right = _row(equality.left), _row(equality.right)
        if left and len(left) == len(right):
            pairs = [exp.EQ(this=a.copy(), expression=b.copy()) for a, b in zip(left, right, strict=True)]
            equality.replace(exp.Paren(this=exp.and_(*pairs, copy=False)))


def _row(value: exp.Expr) -> list[exp.Expr]:
    value = value.unnest()
    named = isinstance(value, exp.Anonymous) and value.name.upper() == "ROW"
    return value.expressions if named or isinstance(value, exp.Tuple) else []


def name_ordinality(tree: exp.Expr) -> None:
    """`WITH ORDINALITY AS t(item)` has a second column, `ordinality`."""
    for source in tree.find_all(exp.Unnest, exp.Lateral, exp.Table):
        inner = source.this if isinstance(source, exp.Lateral) and isinstance(source.this, exp.Unnest) else source
        alias = source.args.get("alias")
        counted = inner.args.get("offset") or inner.args.get("ordinality")
        if (
            counted
            and alias is not None
            and source.alias_column_names
            and "ordinality" not in source.alias_column_names
        ):
            alias.append("columns", exp.to_identifier("ordinality"))


_QUOTED: Final = (
    r"""--[^\n]*|/\*.*?\*/|(?<!\w)[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|(?P<tag>\$\w*\$).*?(?P=tag)"""
)
_OPERATOR: Final = re.compile(rf"(?:{_QUOTED})|(?P<operator>[-+*/<>=~!@#%^&|`?]+)", re.DOTALL)
_UNREAD: Final = frozenset("<<= >>= &&& <<| |>> &<| |&> ~= ?# ?|| ## <#> ~>~ ~<~ ~>=~ ~<=~".split())
"""Operators of PostgreSQL and its extensions that sqlglot does not read as they stand."""


def readable(sql: str) -> str:
    """The SELECT with `OPERATOR(<<=)` in the place of `<<=` and others like it, which means the same."""

    def spelt(found: re.Match[str]) -> str:
        return f" OPERATOR({found[0]}) " if found["operator"] in _UNREAD else found[0]

    return _OPERATOR.sub(spelt, sql)


def qualify_function_aliases(tree: exp.Expr, catalog: Catalog) -> None:
    """`FROM unnest(…) AS s` also names its column `s`: write `s.s`, unless a table beside it has such a column."""
    for column in list(tree.find_all(exp.Column)):
        if column.table or isinstance(column.this, exp.Star):
            continue
        select = owner(column)
        while isinstance(select, exp.Select):
            sources = list(_sources(select))
            others = [each for each in sources if not _is_bare_function(each, column.name)]
            if any(_may_have(each, column.name, catalog) for each in others):
                break
            if len(others) < len(sources):
                column.set("table", column.this.copy())
                break
            select = owner(select)


def _sources(select: exp.Select) -> Iterator[exp.Expr]:
    if select.args.get("from_"):
        yield select.args["from_"].this
    for join in select.args.get("joins") or ():
        yield join.this
    yield from select.args.get("laterals") or ()


def _is_bare_function(source: exp.Expr, name: str) -> bool:
    """A function in FROM with that alias, without names for its columns."""
    if source.alias != name or source.alias_column_names:
        return False
    if isinstance(source, exp.Lateral):
        return not isinstance(source.this, exp.Subquery)
    return isinstance(source, exp.Unnest) or (
        isinstance(source, exp.Table) and not isinstance(source.this, exp.Identifier)
    )


def _may_have(source: exp.Expr, name: str, catalog: Catalog) -> bool:
    """Whether a source may have a column of that name: a CTE may."""
    if isinstance(source, exp.Table) and isinstance(source.this, exp.Identifier):
        table = catalog.get(f"{source.db or DEFAULT_SCHEMA}.{source.name}")
        return table is None or name in table
    query = source.this.unnest() if isinstance(source, (exp.Subquery, exp.Lateral)) else source
    if isinstance(query, exp.Query):
        return query.is_star or name in query.named_selects
    return name in source.alias_column_names
