"""Intermediate keyed results, compiled: derived tables and CTEs of a flow that can be kept as tables of their own.

Such a part is a flow in the flow: its own SELECT, its own key, its own dirty keys. The flow's SELECT is evaluated with
`SELECT … FROM part` in the place of the part's text, which gives the same rows; only what is read to get them differs.
Whether that holds is decided by the compiler that decides it for flows: a part is used where it is local in its key and
everything around it reaches it by that key. Where any doubt is left, the flow does without.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import sqlglot
from sqlglot import exp
from sqlglot.tokenizer_core import TokenType

from instep.errors import FlowError
from instep.flowfile import Flow
from instep_schemas.documents import DocumentColumn
from instep_streams.flows.catalog import Catalog, Column, Table, quote
from instep_streams.flows.compile import Plan, compile_flow
from instep_streams.flows.locality import is_aggregate
from instep_streams.flows.rewrite import readable

SCHEMA: Final = "instep"
_PLAIN: Final = re.compile(r'"r"\.("(?:[^"]|"")+")')
_STARTS: Final = (TokenType.SELECT, TokenType.WITH)
_ORDERED: Final = ("order", "limit", "offset", "fetch")

Describe = Callable[[Plan], tuple[DocumentColumn, ...]]
"""Gives the output columns of a compiled SELECT; raises FlowError."""


@dataclass(frozen=True, slots=True)
class Part:
    """One intermediate result.

    Attributes:
        plan: its SELECT as a flow of its own, keyed by what the rest reaches it by.
        columns: its output.
        table: the table that holds it; its key is no key, several rows may have the same values.
    """

    plan: Plan
    columns: tuple[DocumentColumn, ...]
    table: Table

    def named(self, image: Sequence[str]) -> list[str]:
        """The columns that a walk's image consists of."""
        return [_name(each) or "" for each in image]


def _name(image: str) -> str | None:
    """The column that an image is, or None for an expression over several."""
    found = _PLAIN.fullmatch(image)
    return None if found is None else found[1][1:-1].replace('""', '"')


@dataclass(frozen=True, slots=True)
class Split:
    """A flow over intermediate results.

    Attributes:
        plan: the flow's SELECT, reading the parts' tables.
        parts: what it reads.
    """

    plan: Plan
    parts: tuple[Part, ...]


def split(
    plan: Plan, columns: Sequence[DocumentColumn], catalog: Catalog, describe: Describe, name: str
) -> Split | None:
    """The flow over intermediate results, or None where none is worth it or certain to be right.

    Args:
        plan: the flow as compiled.
        columns: its output, which must stay the same.
        catalog: the captured tables.
        describe: what PostgreSQL says of a SELECT over the replica (not over the parts: they do not exist yet).
        name: of the parts' tables, without their number.
    """
    found: list[tuple[int, int, Part]] = []
    for start, end in _candidates(plan.sql):
        if any(start < other_end and other < end for other, other_end, _ in found):
            continue  # within one that is kept already
        part = _part(plan, (start, end), catalog, describe, f"{name}_{len(found)}")
        if part is not None:
            found.append((start, end, part))
    if not found:
        return None
    try:
        over = _over(plan, found, catalog)
    except FlowError:
        return None
    if all(table.startswith(f"{SCHEMA}.") for table in over.tables):
        return None  # nothing is left to be saved
    same = tuple(plan.anchor) == tuple(over.anchor) and {c.name for c in columns} >= set(over.anchor)
    return Split(over, tuple(part for *_, part in found)) if same else None


def _part(plan: Plan, span: tuple[int, int], catalog: Catalog, describe: Describe, name: str) -> Part | None:
    sql = plan.sql[slice(*span)]
    names = _outputs(plan.sql, sql)
    if names is None:
        return None
    try:
        rough = Part(plan, (), _table(name, [(each, "text") for each in names]))
        reached = _reached_by(_over(plan, [(*span, rough)], catalog), rough.table)
        if reached is None:
            return None
        own = compile_flow(Flow(name=f"{plan.flow.name} ({name})", sql=sql, key=reached), catalog)
        if set(own.anchor) != set(reached):
            return None
        columns = describe(own)
    except FlowError:
        return None
    if [each.name for each in columns] != names:
        return None
    table = _table(name, [(each.name, each.type) for each in columns])
    return Part(own, columns, table)


def _over(plan: Plan, parts: Sequence[tuple[int, int, Part]], catalog: Catalog) -> Plan:
    """The flow compiled with each part's text replaced by a SELECT on its table."""
    sql, at = "", 0
    for start, end, part in sorted(parts, key=lambda each: each[0]):
        names = ", ".join(quote(column.name) for column in part.table.columns)
        sql += f"{plan.sql[at:start]}SELECT {names} FROM {part.table.sql}"
        at = end
    tables = {part.table.id: part.table for *_, part in parts}
    return compile_flow(plan.flow.model_copy(update={"sql": sql + plan.sql[at:]}), {**catalog, **tables})


def _reached_by(over: Plan, table: Table) -> tuple[str, ...] | None:
    """The part's columns by which all the rest reaches it: the same ones everywhere, each as it is.

    None also where another table is reached through the part: its walk would read the part before it is brought up.
    """
    if any(table.id in walk.via for walks in over.walks.values() for walk in walks):
        return None
    images = {frozenset(walk.image) for walk in over.walks.get(table.id, ())}
    if len(images) != 1:
        return None
    names = [_name(each) for each in sorted(images.pop())]
    known = tuple(each for each in names if each is not None)
    return known if len(known) == len(names) else None


def _table(name: str, columns: Sequence[tuple[str, str]]) -> Table:
    return Table(SCHEMA, name, tuple(Column(*each) for each in columns), tuple(each for each, _ in columns))


def _outputs(whole: str, sql: str) -> list[str] | None:
    """The output columns of a candidate; None when it is no SELECT of its own, or too cheap to be kept."""
    tree = sqlglot.parse_one(readable(sql), read="postgres")
    if not isinstance(tree, exp.Query) or any(tree.args.get(each) for each in _ORDERED) or not _worth(tree):
        return None
    named = {cte.alias for cte in sqlglot.parse_one(readable(whole), read="postgres").find_all(exp.CTE)}
    if any(not table.db and table.name in named for table in tree.find_all(exp.Table)):
        return None  # a CTE outside of it
    names = list(tree.named_selects)
    unnamed = any(not each for each in names) or len(names) != len(tree.selects)
    return None if unnamed or "*" in names or len({*names}) != len(names) else names


def _worth(tree: exp.Query) -> bool:
    """Many rows of several tables make few: the rest of the SELECT is then far cheaper than the whole."""
    makes_few = any(
        is_aggregate(node) or isinstance(node, (exp.Group, exp.Distinct, exp.Window)) for node in tree.walk()
    )
    return makes_few and len(list(tree.find_all(exp.Table))) > 1


def _candidates(sql: str) -> Iterator[tuple[int, int]]:
    """Where the SELECTs in parentheses stand, outer ones first."""
    tokens = sqlglot.tokenize(sql, read="postgres")
    opened: list[int] = []
    found = []
    for at, token in enumerate(tokens):
        if token.token_type == TokenType.L_PAREN:
            opened.append(at)
        elif token.token_type == TokenType.R_PAREN and opened:
            start = opened.pop()
            if tokens[start + 1].token_type in _STARTS:
                found.append((tokens[start].end + 1, token.start))
    yield from sorted(found, key=lambda each: (each[0], -each[1]))
