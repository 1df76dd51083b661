"""Compile a flow: which rows can change which keys, what to index, what to refuse. Pure (PostgreSQL: `check`).

The SELECT's text is never rewritten for evaluation: it is wrapped, so its meaning is PostgreSQL's own, and the compiler
can be wrong about one thing only, which keys are dirty.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sqlglot import exp
from sqlglot.optimizer.scope import Scope, traverse_scope

from instep.errors import FlowError
from instep.flowfile import Flow
from instep_streams.flows.blocks import Block, Node, Source
from instep_streams.flows.catalog import Catalog, Table, quote
from instep_streams.flows.edges import Edge, Reader
from instep_streams.flows.locality import LOOSE, barrier
from instep_streams.flows.parse import parse_select, qualified, statement
from instep_streams.flows.refusals import refuse, shown
from instep_streams.flows.resolve import copies, restrictable
from instep_streams.flows.walks import Link, Walk, paths, require_all, same_family, tree, walk

_FLOATS: Final = ("real", "double precision")
_UNORDERED: Final = (exp.GroupConcat, exp.ArrayAgg, exp.JSONArrayAgg, exp.JSONObjectAgg, exp.JSONBObjectAgg)
_OF_ONE_TEXT: Final = (
    exp.JSONExtractScalar, exp.JSONBExtractScalar, exp.Extract, exp.Predicate, exp.Connector, exp.Not, exp.Query,
    exp.Count,
)  # fmt: skip
"""Expressions whose equal values have one text, whatever they are made of."""
_KEY_EXPRESSIONS: Final = (
    exp.Column, exp.Identifier, exp.Literal, exp.Cast, exp.DataType, exp.DataTypeParam, exp.AtTimeZone, exp.Var,
    exp.TimestampTrunc, exp.DateTrunc, exp.Lower, exp.Upper, exp.Trim, exp.Coalesce, exp.Paren, exp.Substring,
    exp.Left, exp.Right, exp.Extract, exp.Add, exp.Sub, exp.Mul, exp.Mod, exp.JSONExtract, exp.JSONExtractScalar,
    exp.JSONPath, exp.JSONPathKey, exp.JSONPathRoot, exp.JSONPathSubscript, exp.DPipe, exp.Neg, exp.Null, exp.Bracket,
    exp.JSONBExtractScalar, exp.SplitPart, exp.Initcap, exp.Replace, exp.Length, exp.MD5, exp.Abs, exp.Floor, exp.Ceil,
    exp.Div, exp.Nullif, exp.Case, exp.If, exp.Predicate, exp.Connector, exp.Not, exp.Boolean, exp.Dot,
)  # fmt: skip
"""What sqlglot writes back as PostgreSQL reads it: the key expression is needed on its own, for images and index."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A compiled flow.

    Attributes:
        flow: as its file defines it.
        sql: the user's SELECT without a closing semicolon.
        anchor: the key columns that are the unit of evaluation; one anchor value may own several documents.
        walks: per table id, how a changed row leads to anchor values.
        needed: per table id, the columns whose change can matter.
        roots: (quoted table, the anchor as SQL expressions over its row `"r"`): where the keys come from.
        indexes: (table id, indexed SQL expressions), for walks and evaluation.
        edges: for people, `public.a.x -> public.b.y`.
        warnings: what is allowed but may surprise.
    """

    flow: Flow
    sql: str
    anchor: tuple[str, ...]
    walks: dict[str, tuple[Walk, ...]]
    needed: dict[str, tuple[str, ...]]
    roots: tuple[tuple[str, tuple[str, ...]], ...]
    indexes: tuple[tuple[str, tuple[str, ...]], ...]
    edges: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def tables(self) -> tuple[str, ...]:
        """The ids of the tables it reads."""
        return tuple(self.needed)


@dataclass(frozen=True, slots=True)
class _Branch:
    """One UNION branch: its roots with the anchor as expressions over a root's row, the links towards them.

    There are several roots where the key comes from a derived table that is a UNION itself.
    """

    roots: dict[Node, tuple[str, ...]]
    links: dict[Node, tuple[Link, ...]]


def compile_flow(flow: Flow, catalog: Catalog) -> Plan:
    """Compile one flow against the captured tables.

    Raises:
        FlowError: refused; `code` is one of `refusals.REFUSALS`, the message names clause, reason and rewrite.
    """
    try:
        return _compile(flow, catalog)
    except FlowError as exc:
        raise FlowError(exc.code, f"Flow {flow.name}: {exc.cause}", exc.remedy) from None


def _compile(flow: Flow, catalog: Catalog) -> Plan:
    sql = statement(flow.sql)
    select = qualified(parse_select(sql), catalog)
    reader = Reader(catalog)
    blocks = reader.read(select)
    anchor, branches = _anchored(flow, blocks, reader)
    walks: dict[str, list[Walk]] = defaultdict(list)
    for branch in branches:
        for table, each in _walks(branch):
            if each not in walks[table.id]:
                walks[table.id].append(each)
    tables = {node.table.id: node.table for node in reader.nodes}
    needed = _needed_columns(select, tables)
    _refuse_foreign(needed, catalog)
    roots = tuple(
        dict.fromkeys((root.table.sql, anchor) for branch in branches for root, anchor in branch.roots.items())
    )
    return Plan(
        flow, sql, anchor, {table: tuple(each) for table, each in walks.items()}, needed, roots,
        tuple(sorted(_indexes(branches))), _edge_texts(reader.edges), tuple(_warnings(select, reader)),
    )  # fmt: skip


def _anchored(flow: Flow, blocks: Sequence[Block], reader: Reader) -> tuple[tuple[str, ...], list[_Branch]]:
    """Choose the largest part of the key that comes from one table occurrence per UNION branch."""
    positions = {name: blocks[0].position(name) for name in flow.key}
    for name, at in positions.items():
        if name.startswith("*"):
            raise refuse(
                "KEY", f'Key column "{name}"', "names that begin with * are Instep's own", "Name it otherwise."
            )
        if at is None:
            names = ", ".join(each.alias_or_name for each in blocks[0].select.expressions)
            raise refuse("KEY", f'Key column "{name}"', f"the SELECT has no such output column (it has {names})")
        _refuse_enum_domain(name, [block.output(at) for block in blocks], blocks)
        _refuse_loose(name, [kind for block in blocks for kind in _kinds(block.output(at), block)])
    groups: dict[tuple[tuple[Node, ...], ...], list[str]] = defaultdict(list)
    for name, at in positions.items():
        roots = tuple(_roots(block.output(at or 0), block) for block in blocks)
        if all(roots):
            groups[roots].append(name)
    failure = refuse("KEY", f"Key ({', '.join(flow.key)})")
    for attempt, (chosen, part) in enumerate(sorted(groups.items(), key=lambda each: -len(each[1]))):
        try:
            owned = _restricting(part, positions, blocks)
            return tuple(owned), _branches(chosen, [positions[each] or 0 for each in owned], blocks, reader)
        except FlowError as exc:
            failure = failure if attempt else exc
    if not groups:
        failure = _why_no_anchor(flow, blocks, positions) or failure
    raise failure


def _restricting(part: list[str], positions: dict[str, int | None], blocks: Sequence[Block]) -> list[str]:
    """Those key columns that every branch may be read by alone: `account` of a statement's (account, line)."""
    found = {each: [barrier(block, block.output(positions[each] or 0)) for block in blocks] for each in part}
    owned = [each for each, barriers in found.items() if not any(barriers)]
    if not owned:
        raise next(each for each in found[part[0]] if each is not None)
    return owned


def _refuse_enum_domain(name: str, values: Sequence[exp.Expr], blocks: Sequence[Block]) -> None:
    for value, block in zip(values, blocks, strict=True):
        if any(base.node.table.column(base.column).of_enum for base in copies(value, block)):
            detail = "PostgreSQL has no `=` for a domain over an enum"
            raise refuse("KEY", f'Key column "{name}"', detail, "Cast it to the enum.")


def _refuse_loose(name: str, kinds: Sequence[str]) -> None:
    """Refuse a key whose equal values have several texts: each text would be a document of its own in the topic."""
    kind = _loose(kinds)
    if kind is not None:
        detail = f"equal values of type {kind} can be written in several ways"
        raise refuse("KEY", f'Key column "{name}"', detail, "Cast it, `::numeric(12,2)` or `::text`, or use another.")


def _loose(kinds: Sequence[str]) -> str | None:
    """The type among those of one column, one per UNION branch, whose equal values have several texts."""
    if len({*kinds}) > 1 and any(kind.startswith(("numeric", '"numeric')) for kind in kinds):
        return "numeric"  # 1.5 of one branch, 1.50 of the other
    return next((each for each in kinds if LOOSE.fullmatch(each)), None)


def _kinds(value: exp.Expr, block: Block) -> Iterator[str]:
    """The types of what a value is a copy of, or of what else makes its texts several."""
    if isinstance(value, exp.Cast):
        yield value.to.sql("postgres").lower().replace("decimal", "numeric").replace(", ", ",")
    elif isinstance(value, exp.Column):
        columns = [each.node.table.column(each.column) for each in copies(value, block)]
        yield from ((each.base or each.sql_type) for each in columns)
    elif isinstance(value, exp.Div):
        yield "numeric"  # how many digits it has hangs on the sizes of both sides
    elif isinstance(value, (exp.Window, exp.Filter)):
        yield from _kinds(value.this, block)
    elif not isinstance(value, _OF_ONE_TEXT):
        found = (_loose(list(_kinds(each, block))) for each in value.iter_expressions())
        yield from (kind for kind in found if kind is not None)


def _why_no_anchor(flow: Flow, blocks: Sequence[Block], positions: dict[str, int | None]) -> FlowError | None:
    for block in blocks:
        for name in flow.key:
            found = barrier(block, block.output(positions[name] or 0))
            if found is not None and found.code in ("LIMIT", "GLOBAL_AGG", "GROUPING", "GROUP_KEY"):
                return found
    return None


def _branches(
    roots: Sequence[Sequence[Node]], positions: Sequence[int], blocks: Sequence[Block], reader: Reader
) -> list[_Branch]:
    branches = []
    for own, block in zip(roots, blocks, strict=True):
        values = [block.output(at) for at in positions]
        for root in own:
            if _nullable(root, block):
                raise refuse("NULLABLE_ROOT", f'Table "{root.table.id}" (alias "{root.alias}")')
        anchors = {root: tuple(_over_root(value, block, at) for value in values) for at, root in enumerate(own)}
        branches.append(_Branch(anchors, tree(own, reader.nodes, reader.edges)))
    reached = {node for branch in branches for node in (*branch.roots, *branch.links)}
    require_all(reader.nodes, reached, reader.stopped)
    return branches


def _roots(value: exp.Expr, block: Block) -> tuple[Node, ...]:
    """The table occurrence that a key expression is computed from alone; of a derived UNION, one per branch."""
    if value.find(exp.AggFunc, exp.Window, exp.Query) is not None:
        return ()
    found = {tuple(base.node for base in restrictable(column, block)) for column in value.find_all(exp.Column)}
    return found.pop() if len(found) == 1 else ()


def _over_root(value: exp.Expr, block: Block, at: int) -> str:
    strange = next((each for each in value.walk() if not isinstance(each, _KEY_EXPRESSIONS)), None)
    if strange is not None:
        raise refuse("KEY_EXPR", value, f"{shown(strange)} cannot be part of a key", "Make it a column of the store.")

    def rebase(node: exp.Expr) -> exp.Expr:
        if not isinstance(node, exp.Column):
            return node
        return exp.column(restrictable(node, block)[at].column, "r", quoted=True)

    return value.transform(rebase).sql("postgres")


def _nullable(root: Node, block: Block) -> bool:
    return any(_nullable_in(root, source) for source in block.sources.values() if root in set(source.nodes()))


def _nullable_in(root: Node, source: Source) -> bool:
    return source.nullable or any(_nullable(root, block) for block in source.blocks if root in set(block.nodes()))


def _walks(branch: _Branch) -> Iterator[tuple[Table, Walk]]:
    for root, anchor in branch.roots.items():
        yield root.table, Walk(anchor, None)
    for node in branch.links:
        for path in paths(node, branch.roots, branch.links):
            _, last = path[-1]
            yield node.table, walk(path, branch.roots[last.parent])


def _indexes(branches: Sequence[_Branch]) -> set[tuple[str, tuple[str, ...]]]:
    found = set()
    for branch in branches:
        for root, anchor in branch.roots.items():
            found.add((root.table.id, tuple(each.replace('"r".', "") for each in anchor)))
        for node, links in branch.links.items():
            for link in links:
                found.add((link.parent.table.id, tuple(quote(name) for name in link.parent_columns)))
                found.add((node.table.id, tuple(quote(name) for name in link.child_columns)))
    return found


def _needed_columns(select: exp.Query, tables: dict[str, Table]) -> dict[str, tuple[str, ...]]:
    needed = {table.id: set(table.key) for table in tables.values()}
    for scope in traverse_scope(select):
        for column in scope.columns:
            source = _source_of(scope, column.table)
            if isinstance(source, exp.Table) and f"{source.db}.{source.name}" in needed:
                needed[f"{source.db}.{source.name}"].add(column.name)
    return {table: tuple(sorted(names)) for table, names in needed.items()}


def _refuse_foreign(needed: dict[str, tuple[str, ...]], catalog: Catalog) -> None:
    for table, names in needed.items():
        for name in names:
            foreign = catalog[table].column(name).foreign
            if foreign is not None:
                raise refuse("TYPE", f"Column {table}.{name}", f"the state database has no type {foreign}")


def _source_of(scope: Scope | None, alias: str) -> object:
    while scope is not None and alias not in scope.sources:
        scope = scope.parent
    return None if scope is None else scope.sources[alias]


def _edge_texts(edges: Sequence[Edge]) -> tuple[str, ...]:
    texts = {
        f"{source.node.table.id}.{source.column} -> {edge.to.node.table.id}.{edge.to.column}"
        for edge in edges
        for source in edge.sources
    }
    return tuple(sorted(texts))


def _warnings(select: exp.Query, reader: Reader) -> Iterator[str]:
    for call in select.find_all(*_UNORDERED):
        if call.find(exp.Order) is None and not isinstance(call.parent, exp.WithinGroup):
            yield f"UNORDERED: {shown(call)} has no ORDER BY: equal rows may give different documents."
    floats = {
        (node.alias, column.name)
        for node in reader.nodes
        for column in node.table.columns
        if column.sql_type in _FLOATS
    }
    for call in select.find_all(exp.Sum, exp.Avg):
        if any((column.table, column.name) in floats for column in call.find_all(exp.Column)):
            yield f"FLOAT: {shown(call)} adds floating point numbers: the result depends on their order."
    for edge in reader.edges:
        for source in edge.sources:
            left, right = source.node.table.type_of(source.column), edge.to.node.table.type_of(edge.to.column)
            if not same_family(left, right):
                yield (
                    f"TYPES: {source.node.table.id}.{source.column} ({left}) is compared with "
                    f"{edge.to.node.table.id}.{edge.to.column} ({right}): an index may not serve it."
                )
