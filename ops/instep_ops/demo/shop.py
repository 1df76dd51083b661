"""The demo shop's life: a plan of transactions that a seed decides, without any I/O.

`Shop(seed, scale)` gives the first day's tables and then, one by one, the steps of its life. The same seed and scale
give the same statements with the same parameters, so that a life can be replayed, and continued after a restart by
counting steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from instep_ops.demo.life import LIFE, WEIGHTS, archive, receive
from instep_ops.demo.opening import Rows
from instep_ops.demo.world import Statement, World

_KINDS, _WEIGHTS = tuple(WEIGHTS), tuple(WEIGHTS.values())


@dataclass(frozen=True, slots=True)
class Step:
    """One transaction of the shop's life; numbered from 1."""

    number: int
    kind: str
    statements: tuple[Statement, ...]

    @property
    def changes(self) -> int:
        """Rows it changes."""
        return sum(statement.changes for statement in self.statements)


class Shop:
    """A shop.

    Args:
        seed: decides everything.
        scale: 1: 200 products, 150 customers, 300 orders.
    """

    def __init__(self, seed: int = 1, scale: float = 1.0) -> None:
        self._world = World(seed, scale)

    @property
    def first_day(self) -> dict[str, Rows]:
        """Rows by table, in an order that satisfies the foreign keys."""
        return self._world.first_day

    @property
    def steps(self) -> int:
        """How many steps it has lived."""
        return self._world.step

    def step(self) -> Step:
        """Live one step on."""
        world = self._world
        world.step += 1
        if len(world.orders) > world.most_orders and (rows := archive(world)):
            return Step(world.step, "archive", tuple(rows))
        kind = world.chance.choices(_KINDS, _WEIGHTS)[0]
        if rows := LIFE[kind](world):
            return Step(world.step, kind, tuple(rows))
        return Step(world.step, "receive", tuple(receive(world)))
