"""Follow a column through derived tables to the captured columns it is a copy of."""

from __future__ import annotations

from sqlglot import exp

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
    for block in source.blocks:
        value = block.output(position)
        if restrict and barrier(block, value) is not None:
            return []
        group = block.select.args.get("group")
        if group is not None and group.find(exp.Rollup, exp.Cube, exp.GroupingSets) is not None:
            return []  # it makes NULLs of its own
        same_row = True
        if not restrict and isinstance(value, (exp.Max, exp.Min)):
            value, same_row = value.this, False
        below = _bases(value, block, restrict=restrict)
        if not below:
            return []
        found += [
            Base(each.node, each.column, each.same_row and same_row, each.nullable or source.nullable) for each in below
        ]
    return found
