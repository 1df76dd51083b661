"""The SELECT as blocks: one per SELECT clause, with its sources; a table occurrence is a node.

A CTE is instantiated for each reference, a UNION for each branch, a subquery where it stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlglot import exp

from instep_streams.flows.catalog import Table


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One occurrence of a captured table."""

    id: int
    table: Table
    alias: str


@dataclass(frozen=True, slots=True)
class Source:
    """What one alias of a FROM clause stands for.

    Attributes:
        node: a table, or None.
        blocks: a derived table's, one per UNION branch; with `node` None and no blocks: a function of the row.
        nullable: on the right side of a LEFT JOIN.
    """

    node: Node | None = None
    blocks: tuple[Block, ...] = ()
    nullable: bool = False

    def nodes(self) -> Iterator[Node]:
        """Every table occurrence in it."""
        if self.node is not None:
            yield self.node
        for block in self.blocks:
            yield from block.nodes()


@dataclass(slots=True, eq=False)
class Block:
    """One SELECT clause.

    Attributes:
        select: its syntax.
        parent: the block whose columns it can also see.
        sources: by alias, in the order of FROM.
    """

    select: exp.Select
    parent: Block | None
    sources: dict[str, Source] = field(default_factory=dict)

    def nodes(self) -> Iterator[Node]:
        """Every table occurrence in FROM, derived tables included."""
        for source in self.sources.values():
            yield from source.nodes()

    def output(self, position: int) -> exp.Expr:
        """An output expression without its alias."""
        value: exp.Expr = self.select.expressions[position].unalias()
        return value

    def position(self, name: str) -> int | None:
        """Where an output column of that name stands."""
        names = [item.alias_or_name for item in self.select.expressions]
        return names.index(name) if name in names else None


class Base(NamedTuple):
    """The column of a table that an expression is a copy of.

    Attributes:
        node: the table occurrence.
        column: its column.
        same_row: the copy comes from one row together with the row's other copies (no MIN or MAX between).
        nullable: an outer join on the way can make it NULL.
    """

    node: Node
    column: str
    same_row: bool = True
    nullable: bool = False

    @property
    def not_null(self) -> bool:
        """Never NULL where it is used; MIN and MAX of no rows are."""
        return self.same_row and not self.nullable and self.node.table.not_null(self.column)


def conjuncts(condition: exp.Expr | None) -> Iterator[exp.Expr]:
    """The parts of a condition that must all hold."""
    if condition is None:
        return
    condition = condition.unnest()
    if isinstance(condition, exp.And):
        yield from conjuncts(condition.left)
        yield from conjuncts(condition.right)
    else:
        yield condition


def owner(node: exp.Expr) -> exp.Expr | None:
    """The SELECT clause an expression belongs to."""
    return node.find_ancestor(exp.Select)


def holder(column: exp.Column, block: Block) -> Block | None:
    """The block, this or an outer one, whose source the column names."""
    found: Block | None = block
    while found is not None and column.table not in found.sources:
        found = found.parent
    return found
