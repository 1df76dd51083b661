"""Read the blocks of a SELECT and the edges between its table occurrences.

An edge says: a row of `to` matters only to those rows of `sources` that have equal values. Edges come from equalities
that must hold, so they may say too little (then more keys are dirty than need be), never too much.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sqlglot import exp

from instep.errors import FlowError
from instep_streams.flows.blocks import Base, Block, Node, Source, conjuncts
from instep_streams.flows.catalog import Catalog
from instep_streams.flows.locality import barrier, inner_conditions, is_aggregate
from instep_streams.flows.refusals import refuse
from instep_streams.flows.resolve import copies, copies_of_output, restrictable, stopped


class Edge(NamedTuple):
    """One equality.

    Attributes:
        sources: where the value may have come from; a row of `to` is reached only when each of them is.
        to: the column of the table occurrence that is restricted by it.
    """

    sources: tuple[Base, ...]
    to: Base


class Reader:
    """Reads one qualified SELECT.

    Attributes:
        nodes: every table occurrence.
        edges: every equality between two of them.
        stopped: why an equality does not lead into the derived table that one stands in.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._open: list[exp.Expr] = []
        self._seen: set[int] = set()
        self._around: dict[int, Block | None] = {}
        self._scalars: dict[int, tuple[Block, ...]] = {}
        self.nodes: list[Node] = []
        self.edges: list[Edge] = []
        self.stopped: dict[Node, FlowError] = {}

    def read(self, tree: exp.Query) -> tuple[Block, ...]:
        """The blocks of the SELECT itself, one per UNION branch.

        Raises:
            FlowError: SHAPE, LIMIT, SETOP, OUTER, NESTED_JOIN, NOT_IN, ANY_ALL, RECURSIVE.
        """
        blocks = self._query(tree, None)
        unused = {id(cte) for cte in tree.find_all(exp.CTE) if id(cte.this) not in self._seen}
        for table in tree.find_all(exp.Table):
            if id(table) not in self._seen and not any(id(each) in unused for each in _ancestors(table)):
                raise refuse("SHAPE", table, "a table in this place cannot be followed", "Join it in FROM.")
        return blocks

    def _query(self, query: exp.Expr, parent: Block | None) -> tuple[Block, ...]:
        self._seen.add(id(query))
        self._around[id(query)] = parent
        if isinstance(query, exp.Subquery):
            if query.args.get("limit") or query.args.get("offset"):
                raise refuse("LIMIT", query)
            if isinstance(query.this, exp.Table):
                raise refuse("NESTED_JOIN", query)
            return self._query(query.this, parent)
        if isinstance(query, exp.SetOperation):
            if not isinstance(query, exp.Union):
                raise refuse("SETOP", query)
            if query.args.get("limit") or query.args.get("offset"):
                raise refuse("LIMIT", query, "LIMIT on a UNION counts rows of other keys")
            return self._query(query.left, parent) + self._query(query.right, parent)
        if not isinstance(query, exp.Select):
            raise refuse("SHAPE", query)
        return (self._select(query, parent),)

    def _select(self, select: exp.Select, parent: Block | None) -> Block:
        block = Block(select, parent)
        start = select.args.get("from_")
        if start is None and parent is None:
            raise refuse("SHAPE", select, "a SELECT without FROM reads no table")
        if start is not None:
            self._add_source(block, start.this, None)
        for join in select.args.get("joins") or ():
            self._add_source(block, join.this, join)
        for lateral in select.args.get("laterals") or ():
            self._add_source(block, lateral, None)
        for clause in ("where", "having", "qualify", "group", "order", "distinct", "windows", "expressions"):
            found = select.args.get(clause)
            for part in found if isinstance(found, list) else [found]:
                self._subqueries(part, block)
        where = select.args.get("where")
        for condition in conjuncts(where.this if where is not None else None):
            self._equality(condition, block, None)
        return block

    def _add_source(self, block: Block, source: exp.Expr, join: exp.Join | None) -> None:
        side = (join.side if join is not None else "").upper()
        kind = (join.kind if join is not None else "").upper()
        if side in ("RIGHT", "FULL"):
            raise refuse("OUTER", f"{side} JOIN {source.sql('postgres')}")
        if kind in ("SEMI", "ANTI", "ASOF"):
            raise refuse("SHAPE", f"{kind} JOIN")
        if source.args.get("joins"):
            raise refuse("NESTED_JOIN", source)
        alias = source.alias_or_name
        nullable = side == "LEFT"
        block.sources[alias] = self._source(source, block, nullable)
        condition = join.args.get("on") if join is not None else None
        self._subqueries(condition, block)
        for each in conjuncts(condition):
            self._equality(each, block, alias if nullable else None)

    def _source(self, source: exp.Expr, block: Block, nullable: bool) -> Source:
        lateral = isinstance(source, exp.Lateral)
        inner = source.this if lateral else source
        if isinstance(source, exp.Table) and isinstance(source.this, exp.Identifier):
            return self._table(source, nullable)
        if isinstance(inner.unnest(), exp.Values):
            if any(row.find(exp.Query) for row in inner.unnest().expressions):
                raise refuse("SHAPE", inner, "a subquery in VALUES is not followed", "Write SELECTs with UNION ALL.")
            return Source(nullable=nullable)
        if isinstance(inner, exp.Subquery) or (lateral and isinstance(inner, exp.Query)):
            # a derived table sees the columns around its query, a LATERAL one also those beside it
            blocks = self._query(inner, block if lateral else block.parent)
            return Source(blocks=blocks, nullable=nullable)
        self._subqueries(source, block)
        self._seen |= {id(each) for each in source.find_all(exp.Table) if not isinstance(each.this, exp.Identifier)}
        return Source(nullable=nullable)  # a function of the row

    def _table(self, table: exp.Table, nullable: bool) -> Source:
        self._seen.add(id(table))
        found = None if table.db else _cte(table)
        if found is not None:
            named, of = found
            if any(each is named for each in self._open):
                raise refuse("RECURSIVE", table)
            self._open.append(named)
            try:
                return Source(blocks=self._query(named, self._around[id(of)]), nullable=nullable)
            finally:
                self._open.pop()
        node = Node(len(self.nodes), self._catalog[f"{table.db}.{table.name}"], table.alias_or_name)
        self.nodes.append(node)
        return Source(node=node, nullable=nullable)

    def _subqueries(self, part: exp.Expr | None, block: Block) -> None:
        """Subqueries of an expression: their own equalities with outer columns lead from outside in."""
        stack = [part] if part is not None else []
        while stack:
            node = stack.pop()
            if isinstance(node, exp.In) and node.args.get("query") is not None:
                self._in(node, block)
                stack.append(node.this)
            elif isinstance(node, (exp.Any, exp.All)) and node.find(exp.Query) is not None:
                raise refuse("ANY_ALL", node.parent or node)
            elif isinstance(node, exp.Exists):
                self._exists(node, self._query(node.this, block), block)
            elif isinstance(node, exp.Query):
                self._scalars[id(node.unnest())] = self._query(node, block)
            else:
                stack.extend(node.iter_expressions())

    def _in(self, node: exp.In, block: Block) -> None:
        """`x IN (SELECT y …)` leads from x to y where NULL makes no difference."""
        outer = node.this.unnest()
        wanted = list(outer.expressions) if isinstance(outer, exp.Tuple) else [outer]
        inners = self._query(node.args["query"], block)
        if _must_hold(node, block):
            for at, each in enumerate(wanted):
                self._back(_outputs(inners, at), each, block)
        for inner in inners:
            pairs = [
                (copies(each, block), restrictable(inner.output(at), inner))
                for at, each in enumerate(wanted)
                if at < len(inner.select.expressions)
            ]
            if not _null_is_false(node) and not all(_never_null(left) and _never_null(right) for left, right in pairs):
                raise refuse("NOT_IN", node)
            for at, (left, right) in enumerate(pairs):
                if barrier(inner, inner.output(at)) is not None:
                    continue  # LIMIT or DISTINCT ON choose among rows with other values
                self.edges += [Edge(tuple(left), to) for to in right if left]

    def _exists(self, node: exp.Exists, inners: tuple[Block, ...], block: Block) -> None:
        """A row that must have another one matters only to what that one matters to."""
        inner, *others = inners
        if others or not _must_hold(node, block) or _has_row_of_none(inner):
            return
        for each in inner_conditions(inner):
            if isinstance(each, exp.EQ):
                for value, target in ((each.left, each.right), (each.right, each.left)):
                    if not _is_outer(value, inner) and _is_outer(target, inner):
                        self._back(copies(value, inner), target, block)

    def _back(self, sources: list[Base], target: exp.Expr, block: Block) -> None:
        """The edges from the rows of a subquery that must have one to the rows around it."""
        if sources and not _is_outer(target, block):
            self.edges += [Edge(tuple(sources), to) for to in restrictable(target, block)]

    def _equality(self, condition: exp.Expr, block: Block, left_joined: str | None) -> None:
        if not isinstance(condition, exp.EQ):
            return
        sides = (condition.left, condition.right)
        if all(_is_outer(side, block) for side in sides):
            return  # it restricts the subquery, not the join outside
        for value, target in (sides, sides[::-1]):
            if _is_outer(target, block):
                continue
            scalar = self._scalars.get(id(value.unnest()))
            sources = copies(value, block) if scalar is None else _outputs(scalar, 0)
            self._note_stop(target, block)
            for to in restrictable(target, block):
                if sources and self._leads(sources, to, block, left_joined):
                    self.edges.append(Edge(tuple(sources), to))

    def _note_stop(self, target: exp.Expr, block: Block) -> None:
        found = stopped(target, block)
        if found is not None:
            source, why = found
            self.stopped |= dict.fromkeys(source.nodes(), why)

    def _leads(self, sources: list[Base], to: Base, block: Block, left_joined: str | None) -> bool:
        if any(each.node is to.node for each in sources):
            return False
        if left_joined is None:
            return True
        # the ON of a LEFT JOIN restricts its right side only
        right = set(block.sources[left_joined].nodes())
        return to.node in right and not any(each.node in right for each in sources)


def _never_null(bases: list[Base]) -> bool:
    return bool(bases) and all(each.not_null for each in bases)


def _outputs(blocks: Sequence[Block], at: int) -> list[Base]:
    """The columns that an output of a subquery may have been copied from; empty when some branch's is no copy."""
    found = [copies_of_output(block.output(at), block) for block in blocks if at < len(block.select.expressions)]
    return [base for bases in found for base in bases] if len(found) == len(blocks) and all(found) else []


def _must_hold(node: exp.Expr, block: Block) -> bool:
    """Whether the block has no row for which the condition is not true."""
    holder = node.parent
    while isinstance(holder, (exp.Paren, exp.And)):
        node, holder = holder, holder.parent
    if isinstance(holder, exp.Join):
        return holder.args.get("on") is node and not holder.side and holder.parent is block.select
    return isinstance(holder, exp.Where) and holder.parent is block.select


def _has_row_of_none(block: Block) -> bool:
    """Whether the block may give a row where FROM and WHERE leave none: an aggregate over all of them."""
    group = block.select.args.get("group")
    if group is not None:
        return not group.expressions or group.find(exp.Rollup, exp.Cube, exp.GroupingSets) is not None
    return block.select.args.get("having") is not None or any(is_aggregate(each) for each in block.select.walk())


def _null_is_false(node: exp.Expr) -> bool:
    """Whether NULL and FALSE mean the same where a condition stands: no NOT above it that would tell them apart."""
    holder = node.parent
    while isinstance(holder, (exp.Paren, exp.And, exp.Or)):
        node, holder = holder, holder.parent
    if isinstance(holder, exp.If):  # CASE WHEN condition THEN …, not CASE value WHEN condition THEN …
        return holder.this is node and isinstance(holder.parent, exp.Case) and holder.parent.this is None
    if isinstance(holder, exp.Join):
        return holder.args.get("on") is node
    return isinstance(holder, (exp.Where, exp.Having))


def _is_outer(value: exp.Expr, block: Block) -> bool:
    column = value.unnest()
    return isinstance(column, exp.Column) and column.table not in block.sources


def _cte(table: exp.Table) -> tuple[exp.Expr, exp.Expr] | None:
    """The WITH query of that name, and the query that it belongs to."""
    for node in _ancestors(table):
        found = node.args.get("with_") if isinstance(node, exp.Query) else None
        for cte in found.expressions if found is not None else ():
            if cte.alias == table.name:
                return cte.this, node
    return None


def _ancestors(node: exp.Expr) -> Iterator[exp.Expr]:
    parent = node.parent
    while parent is not None:
        yield parent
        parent = parent.parent
