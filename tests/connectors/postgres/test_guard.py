"""How near a slot is to being full or lost, judged from what the store shows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from instep_connectors.postgres.guard import Growth, Level, judge, shown
from instep_connectors.postgres.slot import Slot, forked_at

GIB, MIB = 1 << 30, 1 << 20
CURRENT = 100 * GIB
SLOT = Slot("s", "pgoutput", "shop", True, 1, "reserved", CURRENT, CURRENT, CURRENT, None, None)


def kept(size: int, **more: object) -> Slot:
    return replace(SLOT, restart=CURRENT - size, confirmed=CURRENT - size, **more)  # type: ignore[arg-type]  # of the dataclass


@pytest.mark.parametrize(
    ("slot", "budget", "growth", "level", "minutes"),
    [
        (SLOT, 10 * GIB, None, Level.FINE, None),
        (kept(MIB), 10 * GIB, 100.0 * MIB, Level.FINE, 102.39 / 60),  # fast, but a megabyte is no matter
        (kept(GIB), 10 * GIB, 1.0 * MIB, Level.FINE, 9 * 1024 / 60),
        (kept(GIB), 10 * GIB, 10.0 * MIB, Level.SOON, 9 * 1024 / 600),
        (kept(9 * GIB), 10 * GIB, 0.0, Level.SOON, None),
        (kept(9 * GIB), 10 * GIB, -5.0, Level.SOON, None),
        (kept(11 * GIB), 10 * GIB, 1.0, Level.FULL, 0.0),
        (kept(11 * GIB), 0, None, Level.FINE, None),  # no budget, no limit of the store
        (kept(GIB, safe_bytes=MIB), 10 * GIB, None, Level.SOON, None),  # the store's own limit is nearer
        (kept(GIB, safe_bytes=-MIB), 0, None, Level.FULL, None),
        (kept(GIB, wal_status="unreserved"), 0, None, Level.FULL, None),
        (kept(GIB, wal_status="lost"), 0, None, Level.LOST, 0.0),
        (kept(GIB, invalidation="idle_timeout"), 0, None, Level.LOST, 0.0),
    ],
)
def test_levels(slot: Slot, budget: int, growth: float | None, level: Level, minutes: float | None) -> None:
    health = judge(slot, budget, growth, "shop")
    assert health.level is level
    if minutes is None:
        assert health.minutes is None
    else:
        assert health.minutes is not None and health.minutes == pytest.approx(minutes, abs=0.2)
    assert bool(health.cause) == bool(health.remedy) == (level is not Level.FINE)


def test_what_is_said_names_the_limit_and_who_has_to_act() -> None:
    near = kept(9 * GIB)
    assert judge(near, 10 * GIB, 1.0 * MIB, "shop").cause == (
        "The store keeps 9.0 GiB of WAL for the slot s; the limit is 10.0 GiB (wal_budget), reached in 17 min at this "
        "rate."
    )
    assert "capture status shop" in judge(near, 10 * GIB, None, "shop").remedy
    assert "pg_drop_replication_slot('s')" in judge(replace(near, active_pid=None), 10 * GIB, None, "shop").remedy
    held = replace(near, confirmed=CURRENT)  # confirmed to the end, and yet kept
    assert "long transaction" in judge(held, 10 * GIB, None, "shop").remedy
    assert "max_slot_wal_keep_size" in judge(kept(GIB, safe_bytes=MIB), 0, None, "shop").cause
    assert "capture recover shop" in judge(kept(GIB, wal_status="lost"), 0, None, "shop").remedy


def test_growth_forgets_what_is_long_ago() -> None:
    growth = Growth()
    assert growth.add(0, 0) is None
    assert growth.add(10, 100) == 10
    assert growth.add(400, 100) == 0  # only what the last five minutes, and the look before them, tell
    assert growth.add(410, 1100) == pytest.approx(1000 / 10)


def test_bytes_as_people_read_them() -> None:
    assert [shown(size) for size in (0, 1023, 1024, 5 * GIB, 3000 * GIB)] == [
        "0 B", "1023 B", "1.0 KiB", "5.0 GiB", "2.9 TiB",
    ]  # fmt: skip


def test_where_a_timeline_was_left() -> None:
    history = "1\t0/3000148\tno recovery target specified\n\n2\t0/5000000\tbefore 2026\n"
    assert forked_at(history, 1) == 0x3000148 and forked_at(history, 2) == 0x5000000
    assert forked_at(history, 3) is None and forked_at("", 1) is None
