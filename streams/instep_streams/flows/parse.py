"""From a flow's text to a checked, qualified syntax tree, for analysis only: PostgreSQL gets the user's text."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any, Final

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import Scope, traverse_scope
from sqlglot.schema import MappingSchema
from sqlglot.tokenizer_core import TokenType

from instep_streams.flows.catalog import DEFAULT_SCHEMA, Catalog
from instep_streams.flows.refusals import refuse
from instep_streams.flows.rewrite import (
    name_ordinality,
    qualify_function_aliases,
    quantified_as_in,
    readable,
    split_row_equalities,
)

_MOMENT: Final = re.compile(r"\s*(now|today|tomorrow|yesterday)\b", re.IGNORECASE)
_UNKNOWN: Final = re.compile(r"Unknown column: (.+)")
_TIME_TYPES: Final = ("DATE", "TIME", "TIMETZ", "TIMESTAMP", "TIMESTAMPTZ", "TIMESTAMPNTZ", "DATETIME")
_NOW: Final[tuple[type[exp.Expr], ...]] = (
    exp.CurrentTimestamp,
    exp.CurrentDate,
    exp.CurrentTime,
    exp.CurrentUser,
    exp.Localtime,
    exp.Localtimestamp,
    exp.CurrentSchema,
    exp.SessionUser,
)
"""Words that are functions without parentheses; functions proper are looked up in pg_proc (`check`)."""
_NOT_A_TABLE: Final = " Read a partition through its partitioned table, and write a view's SELECT in the flow."
_NOT_IN_A_SELECT: Final = (exp.Lock, exp.Placeholder, exp.Parameter, exp.TableSample, exp.Into, exp.SessionParameter)


def statement(sql: str) -> str:
    """The SELECT without a closing semicolon (a comment may follow it).

    Raises:
        FlowError: SYNTAX, SHAPE.
    """
    try:
        tokens = sqlglot.tokenize(sql, read="postgres")
    except SqlglotError as exc:
        raise refuse("SYNTAX", "The SELECT", _first_line(exc)) from None
    if not tokens:
        raise refuse("SHAPE", "The flow has no SELECT")
    ends = [token for token in tokens if token.token_type == TokenType.SEMICOLON]
    if not ends:
        return sql
    if ends[0] is not tokens[-len(ends)]:
        raise refuse("SHAPE", "More than one statement")
    return sql[: ends[0].start].rstrip()


def parse_select(sql: str) -> exp.Query:
    """Parse and refuse what is no plain SELECT or is not the same tomorrow.

    Raises:
        FlowError: SYNTAX, SHAPE, VOLATILE, NATURAL, RECURSIVE.
    """
    try:
        found = sqlglot.parse(readable(sql), read="postgres")
    except SqlglotError as exc:
        raise refuse("SYNTAX", "The SELECT", _first_line(exc)) from None
    tree = found[0] if len(found) == 1 else None
    if not isinstance(tree, (exp.Select, exp.SetOperation, exp.Subquery)):
        raise refuse("SHAPE", "The flow" if tree is None else tree)
    for node in tree.walk():
        _check_node(node)
    return tree


def _check_node(node: exp.Expr) -> None:
    if isinstance(node, _NOT_IN_A_SELECT) or isinstance(node, exp.DML):
        raise refuse("SHAPE", node, f"{type(node).__name__.upper()} has no place in a flow")
    if isinstance(node, exp.Table) and isinstance(node.this, exp.Identifier) and node.alias_column_names:
        raise refuse("SHAPE", node, "renamed columns of a table are not followed", "Rename them in the SELECT list.")
    if isinstance(node, exp.Table) and node.args.get("only"):
        raise refuse("SHAPE", node, "ONLY has no meaning in the replica", "Leave ONLY out.")
    if isinstance(node, _NOW) or _is_moment(node):
        raise refuse("VOLATILE", node)
    if isinstance(node, exp.Join) and (node.args.get("method") or "").upper() == "NATURAL":
        raise refuse("NATURAL", node)
    if isinstance(node, exp.With) and node.args.get("recursive"):
        raise refuse("RECURSIVE", "WITH RECURSIVE")


def _is_moment(node: exp.Expr) -> bool:
    """A literal such as 'today', where it can be read as a date: PostgreSQL would fix it when it reads the SELECT."""
    if not (isinstance(node, exp.Literal) and node.is_string and _MOMENT.match(node.name)):
        return False
    holder = node.parent
    while isinstance(holder, exp.Paren):
        holder = holder.parent
    if isinstance(holder, exp.Cast):
        return holder.to.this.name in _TIME_TYPES
    # beside an operator the other side's type decides; only the bare word is read as a moment there
    comparison = isinstance(holder, (exp.Binary, exp.Between)) and not isinstance(
        holder, (exp.DPipe, exp.Like, exp.ILike)
    )
    return comparison and _MOMENT.fullmatch(node.name) is not None and not _beside_text(holder, node)


def _beside_text(holder: exp.Expr | None, literal: exp.Expr) -> bool:
    others = [each for each in (holder.iter_expressions() if holder else ()) if each is not literal]
    return any(
        (isinstance(each, exp.Cast) and each.to.this.name in ("TEXT", "VARCHAR"))
        or isinstance(each, (exp.Lower, exp.Upper, exp.JSONExtractScalar))
        for each in others
    )


def qualified(tree: exp.Query, catalog: Catalog) -> exp.Query:
    """The tree with every column qualified by its source and every table by its schema.

    Raises:
        FlowError: UNKNOWN_TABLE, RESOLVE, WHOLE_ROW, STAR.
    """
    work = tree.copy()
    _name_functions(work)
    name_ordinality(work)
    quantified_as_in(work)
    split_row_equalities(work)
    qualify_function_aliases(work, catalog)
    merged = _merged_columns(work)
    _refuse_stars(work)
    done = _qualify(work, catalog)
    for column in done.find_all(exp.Column):
        if isinstance(column.this, exp.Star):  # those of SELECT lists are expanded by now: this one is a value
            raise refuse("WHOLE_ROW", column.parent or column)
    for scope in traverse_scope(done):
        _check_tables(scope, catalog)
        _qualify_sorted(scope, catalog)
    for scope in traverse_scope(done):
        _check_columns(scope, catalog)
        _check_whole_rows(scope)
    _unmerge(done, merged)
    return done


def _qualify(tree: exp.Query, catalog: Catalog) -> exp.Query:
    unknown: set[str] = set()
    while True:
        schema: dict[str, Any] = {}  # no empty namespaces: sqlglot takes its depth from the first
        for table in catalog.values():
            names = [column.name for column in table.columns]
            schema.setdefault(table.schema, {})[table.name] = dict.fromkeys([*names, *unknown], "text")
        try:
            return qualify(
                tree.copy(), dialect="postgres", db=DEFAULT_SCHEMA,
                schema=MappingSchema(schema, dialect="postgres", normalize=False),
                validate_qualify_columns=False, quote_identifiers=True, expand_alias_refs=True,
            )  # fmt: skip
        except SqlglotError as exc:
            found = _UNKNOWN.match(_first_line(exc))
            if found is None or found[1] in unknown:
                unknown_columns = "missing source schemas" in str(exc)  # of a function in FROM: only PostgreSQL knows
                advice = (
                    "Give the function in FROM an alias, and write it before the column." if unknown_columns else ""
                )
                raise refuse("RESOLVE", "The SELECT", _first_line(exc), advice) from None
            unknown.add(found[1])  # let it through: `_check_columns` says what there is instead


def _check_whole_rows(scope: Scope) -> None:
    for node in scope.find_all(exp.TableColumn):
        source = _source_of(scope, node.name)
        if source is not None and not _is_function(source):
            raise refuse("WHOLE_ROW", node.parent or node)


def _name_functions(tree: exp.Expr) -> None:
    """Name unnamed output columns of subqueries as PostgreSQL does (`count`, `max`): sqlglot does not."""
    for select in tree.find_all(exp.Select):
        if select.parent is None or not isinstance(select.parent, (exp.Subquery, exp.CTE)):
            continue
        for item in select.expressions:
            if isinstance(item, exp.Func) and not isinstance(item, (exp.Cast, exp.Case)):
                name = item.sql("postgres").split("(")[0].lower()
                if name.isidentifier():
                    item.replace(exp.alias_(item.copy(), name))


def _merged_columns(tree: exp.Expr) -> set[str]:
    """Names in USING lists that the user does not himself write in a COALESCE."""
    names = {each.name for join in tree.find_all(exp.Join) for each in join.args.get("using") or ()}
    written = {each.name for call in tree.find_all(exp.Coalesce) for each in call.find_all(exp.Column)}
    return names - written


def _unmerge(tree: exp.Expr, merged: set[str]) -> None:
    """A column named in USING is the left table's in INNER and LEFT joins: undo sqlglot's COALESCE of both."""
    for call in list(tree.find_all(exp.Coalesce)):
        columns = [call.this, *call.expressions]
        if all(isinstance(each, exp.Column) for each in columns) and {each.name for each in columns} <= merged:
            call.replace(columns[0].copy())


def _refuse_stars(tree: exp.Query) -> None:
    for select in _tops(tree):
        for star in _stars(select):
            raise refuse("STAR", star.parent if isinstance(star.parent, exp.Column) else star)
    distinct = [select for select in tree.find_all(exp.Select) if select.args.get("distinct")]
    merging = [select for union in tree.find_all(exp.Union) if union.args.get("distinct") for select in _tops(union)]
    for select in [*distinct, *merging]:
        for star in _stars(select):
            raise refuse("STAR", select, f"with DISTINCT or UNION, {star.sql()} decides which rows are equal")


def _tops(query: exp.Expr) -> Iterator[exp.Select]:
    query = query.unnest()
    if isinstance(query, exp.SetOperation):
        yield from _tops(query.left)
        yield from _tops(query.right)
    elif isinstance(query, exp.Select):
        yield query


def _stars(select: exp.Select) -> Iterator[exp.Star]:
    for item in select.expressions:
        inner = item.unalias()
        if isinstance(inner, exp.Star):
            yield inner
        elif isinstance(inner, exp.Column) and isinstance(inner.this, exp.Star):
            yield inner.this


def _check_tables(scope: Scope, catalog: Catalog) -> None:
    for source in scope.sources.values():
        if isinstance(source, exp.Table) and isinstance(source.this, exp.Identifier):
            name = f"{source.db}.{source.name}"
            if name not in catalog:
                raise refuse(
                    "UNKNOWN_TABLE", f'Table "{name}"', "", _existing("captured are", name, catalog) + _NOT_A_TABLE
                )
            if not catalog[name].key:
                raise refuse("KEYLESS", f'Table "{name}"')
            if catalog[name].inherited:
                raise refuse("INHERITED", f'Table "{name}"')


def _check_columns(scope: Scope, catalog: Catalog) -> None:
    for column in scope.columns:
        source = _source_of(scope, column.table)
        if not column.table:
            _check_unqualified(scope, column, catalog)
        elif source is None:
            raise refuse("RESOLVE", column, f'there is no table or alias "{column.table}" in FROM')
        elif isinstance(source, exp.Table) and isinstance(source.this, exp.Identifier):
            table = catalog[f"{source.db}.{source.name}"]
            if column.name not in table:
                names = [each.name for each in table.columns]
                raise _no_column(column, f'table "{table.id}"', names)
        elif isinstance(source, Scope) and isinstance(source.expression, exp.Query):
            names = source.expression.named_selects
            if column.name not in names:
                raise _no_column(column, f'"{column.table}"', names)


def _qualify_sorted(scope: Scope, catalog: Catalog) -> None:
    """Names within expressions of ORDER BY and DISTINCT ON are columns of FROM, also where an output has that name."""
    select = scope.expression
    for clause in ("order", "distinct") if isinstance(select, exp.Select) else ():
        part = select.args.get(clause)
        for column in part.find_all(exp.Column) if part is not None else ():
            if column.table or _stands_alone(column) or column.find_ancestor(exp.Select) is not select:
                continue
            alias = _source_with(scope, column.name, catalog)
            if alias is not None:
                column.set("table", exp.to_identifier(alias, quoted=True))


def _stands_alone(column: exp.Column) -> bool:
    """The whole item of a list: then PostgreSQL takes it as an output's name first."""
    holder = column.parent
    while isinstance(holder, (exp.Paren, exp.Ordered, exp.Tuple)):
        holder = holder.parent
    return isinstance(holder, (exp.Order, exp.Distinct))


def _source_with(scope: Scope | None, name: str, catalog: Catalog) -> str | None:
    while scope is not None:
        for alias, (_, source) in scope.selected_sources.items():
            if name in _columns_of(source, catalog):
                return str(alias)
        scope = scope.parent
    return None


def _check_unqualified(scope: Scope, column: exp.Column, catalog: Catalog) -> None:
    source = _source_of(scope, column.name)
    if source is None:
        if column.find_ancestor(exp.Order, exp.Distinct) and column.name in _outputs(scope):
            return
        names = sorted({name for each in scope.sources.values() for name in _columns_of(each, catalog)})
        raise _no_column(column, "FROM", names)
    if not _is_function(source):
        raise refuse("WHOLE_ROW", column)


def _outputs(scope: Scope) -> list[str]:
    return scope.expression.named_selects if isinstance(scope.expression, exp.Query) else []


def _columns_of(source: Any, catalog: Catalog) -> list[str]:
    if isinstance(source, exp.Table) and isinstance(source.this, exp.Identifier):
        return [each.name for each in catalog[f"{source.db}.{source.name}"].columns]
    if isinstance(source, Scope) and isinstance(source.expression, exp.Query):
        return list(source.expression.named_selects)
    return []


def _is_function(source: Any) -> bool:
    if isinstance(source, exp.Table):
        return not isinstance(source.this, exp.Identifier)
    return not (isinstance(source, Scope) and isinstance(source.expression, exp.Query))


def _source_of(scope: Scope | None, alias: str) -> Any:
    while scope is not None:
        if alias in scope.sources:
            return scope.sources[alias]
        scope = scope.parent
    return None


def _no_column(column: exp.Column, where: str, names: list[str]) -> Exception:
    return refuse(
        "RESOLVE", column, f'{where} has no column "{column.name}"', _existing("There are", column.name, names)
    )


def _existing(lead: str, wanted: str, names: Any) -> str:
    near = difflib.get_close_matches(wanted, list(names), 1)
    shown = ", ".join(sorted(names)[:30]) or "none"
    meant = f'Did you mean "{near[0]}"? ' if near else ""
    return f"{meant}{lead[0].upper()}{lead[1:]}: {shown}."


def _first_line(exc: Exception) -> str:
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(exc))
    return text.splitlines()[0].rstrip(".")
