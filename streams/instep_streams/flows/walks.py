"""From a changed row back to the keys it can change: a tree of edges from the key's table, read from leaf to root.

Why one walk on the state after a batch is enough: if a key's rows changed, take on the way from the key's table the
first row that differs before and after. All before it is unchanged, hence still there, and leads back to the key.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from instep.errors import FlowError
from instep_streams.flows.blocks import Node
from instep_streams.flows.catalog import GIVEN, Table, quote
from instep_streams.flows.edges import Edge
from instep_streams.flows.refusals import refuse

_MOST_PATHS: Final = 32
_FAMILIES: Final = (
    frozenset({"smallint", "integer", "bigint"}),
    frozenset({"text", "character varying"}),
)


class Link(NamedTuple):
    """A step towards the root: equal columns of a table occurrence (child) and the one nearer to the root."""

    parent: Node
    parent_columns: tuple[str, ...]
    child_columns: tuple[str, ...]

    def cost(self) -> int:
        """Little for a link that leads to one row nearer to the root; much for one that spreads."""
        return 1 if set(self.parent_columns) >= set(self.parent.table.key) else 10


Path = tuple[tuple[Node, Link], ...]
"""From a node to the root: each node with the link that leaves it."""


@dataclass(frozen=True, slots=True)
class Walk:
    """How the image of a changed row of one table gives anchor values.

    Attributes:
        image: SQL expressions over the row `"r"`.
        sql: the query from image values (one text[] parameter for each, see `catalog.query`) to anchor values as text;
            None when the image is the anchor already.
        via: the tables on the way, for people.
    """

    image: tuple[str, ...]
    sql: str | None
    via: tuple[str, ...] = ()


def tree(roots: Iterable[Node], nodes: Sequence[Node], edges: Iterable[Edge]) -> dict[Node, tuple[Link, ...]]:
    """For each node the cheapest links towards a root (several where a UNION lies between).

    Raises:
        FlowError: UNLINKED, naming the first table that no edge reaches.
    """
    options: dict[Node, list[tuple[Link, ...]]] = defaultdict(list)
    for to, links in _options(edges):
        options[to].append(links)
    cost, found = dict.fromkeys(roots, 0), dict[Node, tuple[Link, ...]]()
    while len(cost) <= len(nodes):
        reachable = [
            (max(cost[link.parent] + link.cost() for link in links), to.id, to, links)
            for to, choices in options.items()
            if to not in cost
            for links in choices
            if all(link.parent in cost for link in links)
        ]
        if not reachable:
            break
        price, _, to, links = min(reachable, key=lambda each: each[:2])
        cost[to], found[to] = price, links
    return found


def require_all(nodes: Iterable[Node], reached: set[Node], stopped: Mapping[Node, FlowError]) -> None:
    """Every table occurrence is reached from some root.

    Args:
        nodes: all of them.
        reached: those that are.
        stopped: why an equality does not lead on to some.

    Raises:
        FlowError: UNLINKED.
    """
    for node in nodes:
        if node not in reached:
            clause, why = f'Table "{node.table.id}" (alias "{node.alias}")', stopped.get(node)
            if why is None:
                raise refuse("UNLINKED", clause)
            detail = f"an equality leads to its derived table, not into it ({why.code}): {why.cause.rstrip('.')}"
            raise refuse("UNLINKED", clause, detail, why.remedy)


def _options(edges: Iterable[Edge]) -> Iterator[tuple[Node, tuple[Link, ...]]]:
    """Alternatives per node; equalities of the same two rows together make one link of several columns."""
    pairs: dict[tuple[Node, Node], dict[str, str]] = defaultdict(dict)
    for edge in edges:
        if len(edge.sources) == 1 and edge.sources[0].same_row:
            pairs[edge.to.node, edge.sources[0].node].setdefault(edge.to.column, edge.sources[0].column)
        else:
            yield edge.to.node, tuple(Link(each.node, (each.column,), (edge.to.column,)) for each in edge.sources)
    for (to, parent), columns in pairs.items():
        order = sorted(columns, key=lambda name: _rank(to.table, name))
        yield to, (Link(parent, tuple(columns[each] for each in order), tuple(order)),)


def _rank(table: Table, column: str) -> tuple[int, str]:
    return (table.key.index(column) if column in table.key else len(table.key), column)


def paths(node: Node, roots: Collection[Node], links: dict[Node, tuple[Link, ...]]) -> list[Path]:
    """Every way from a node to a root.

    Raises:
        FlowError: SHAPE for more than 32.
    """
    found = list(_paths(node, roots, links))
    if len(found) > _MOST_PATHS:
        raise refuse("SHAPE", f'Table "{node.table.id}"', "too many UNION branches lead to it", "Split the flow.")
    return found


def _paths(node: Node, roots: Collection[Node], links: dict[Node, tuple[Link, ...]]) -> Iterator[Path]:
    if node in roots:
        yield ()
        return
    for link in links[node]:
        for rest in _paths(link.parent, roots, links):
            yield ((node, link), *rest)


def walk(path: Path, anchor: Sequence[str]) -> Walk:
    """The walk of one path (not empty), to the anchor expressions over the root's row `"r"`."""
    direct = _without_root(path[-1], anchor)
    via = tuple(link.parent.table.id for _, link in path)
    if direct is not None and len(path) == 1:
        return Walk(tuple(f'"r".{quote(name)}' for name in direct), None, via)
    start, first = path[0]
    steps = path[:-1] if direct is not None else path
    select = [f'"n{path[-1][0].id}".{quote(name)}' for name in direct] if direct is not None else list(anchor)
    typed = ", ".join(f"c{i}::{start.table.type_of(name)} AS c{i}" for i, name in enumerate(first.child_columns))
    given = ", ".join(f"{GIVEN}::text[]" for _ in first.child_columns)
    names = ", ".join(f"c{i}" for i in range(len(first.child_columns)))
    text = ", ".join(f"({each})::text" for each in select)
    sql = f"SELECT DISTINCT {text} FROM (SELECT {typed} FROM unnest({given}) AS u({names})) AS i"
    below = [f"i.c{i}" for i in range(len(first.child_columns))]
    for at, (_, link) in enumerate(steps):
        alias = '"r"' if at == len(path) - 1 else f'"n{link.parent.id}"'
        on = " AND ".join(
            f"{alias}.{quote(name)} = {left}" for name, left in zip(link.parent_columns, below, strict=True)
        )
        sql += f" JOIN {link.parent.table.sql} AS {alias} ON {on}"
        if at + 1 < len(path):
            below = [f"{alias}.{quote(name)}" for name in path[at + 1][1].child_columns]
    return Walk(tuple(f'"r".{quote(name)}' for name in first.child_columns), sql, via)


def _without_root(last: tuple[Node, Link], anchor: Sequence[str]) -> list[str] | None:
    """The child's columns that equal the anchor, when the last link compares it: the root need not be read."""
    child, link = last
    equal = {
        f'"r".{quote(parent)}': column
        for parent, column in zip(link.parent_columns, link.child_columns, strict=True)
        if same_family(link.parent.table.type_of(parent), child.table.type_of(column))
    }
    return [equal[each] for each in anchor] if all(each in equal for each in anchor) else None


def same_family(left: str, right: str) -> bool:
    """Whether values of one type can be cast to the other and stay equal."""
    left, right = left.split("(")[0], right.split("(")[0]
    return left == right or any(left in family and right in family for family in _FAMILIES)
