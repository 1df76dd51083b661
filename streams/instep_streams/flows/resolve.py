"""Follow a column through derived tables to the captured columns it is a copy of."""

from __future__ import annotations

from sqlglot import exp

from instep.errors import FlowError
from instep_streams.flows.blocks import Base, Block, Source, holder
from instep_streams.flows.locality import barrier


def copies(value: exp.Expr | None, block: Block) -> list[Base]:
    """The columns a value may have been copied from, one per UNION branch; empty when it is no plain copy.

    Grouping, windows and LIMIT on the way do not matter: the value still is that of some row below.
    """
    return _bases(value, block, restrict=False)


def restrictable(value: exp.Expr | None, block: Block) -> list[Base]:
    """Like `copies`, but only where every block on the way may be restricted to one value of the column."""
    return _bases(value, block, restrict=True)


def stopped(value: exp.Expr, block: Block) -> tuple[Source, FlowError] | None:
    """The derived table that may not be restricted to one value of the column, and why; None where it may."""
    column = value.unnest()
    if not isinstance(column, exp.Column):
        return None
    where = holder(column, block)
    source = where.sources[column.table] if where is not None else Source()
    position = source.blocks[0].position(column.name) if source.blocks else None
    for inner in source.blocks if position is not None else ():
        found = barrier(inner, inner.output(position or 0))
        if found is not None:
            return source, found
        below = stopped(inner.output(position or 0), inner)
        if below is not None:
            return below
    return None


def _bases(value: exp.Expr | None, block: Block, *, restrict: bool) -> list[Base]:
    column = value.unnest() if value is not None else None
    if not isinstance(column, exp.Column):
        return []
    where = holder(column, block)
    if where is None:
        return []
    source = where.sources[column.table]
    if source.node is not None:
        return [Base(source.node, column.name, nullable=source.nullable)] if column.name in source.node.table else []
    return _below(column.name, source, restrict=restrict)


def _below(name: str, source: Source, *, restrict: bool) -> list[Base]:
    position = source.blocks[0].position(name) if source.blocks else None
    if position is None:
        return []
    found: list[Base] = []
    nullable = source.nullable
    for block in source.blocks:
        value = block.output(position)
        if isinstance(value.this if isinstance(value, exp.Cast) else value, exp.Null):
            nullable = True  # no `=` holds for rows of this branch
            continue
        if restrict and barrier(block, value) is not None:
            return []
        group = block.select.args.get("group")
        if group is not None and group.find(exp.Rollup, exp.Cube, exp.GroupingSets) is not None:
            return []  # it makes NULLs of its own
        below = _bases(value, block, restrict=True) if restrict else copies_of_output(value, block)
        if not below:
            return []
        found += below
    return [each._replace(nullable=each.nullable or nullable) for each in found]


def copies_of_output(value: exp.Expr, block: Block) -> list[Base]:
    """Like `copies`, of an output of the block; MIN and MAX are the value of some row, too."""
    if isinstance(value, (exp.Max, exp.Min)):
        return [each._replace(same_row=False) for each in copies(value.this, block)]
    return copies(value, block)
