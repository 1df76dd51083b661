from pathlib import Path

import psycopg
import pytest

from instep_ops.embedded.state import memory, state_server, state_settings

GB = 2**30


@pytest.mark.parametrize(("has", "cache"), [(GB // 4, "64MB"), (2 * GB, "256MB"), (64 * GB, "1024MB")])
def test_the_cache_is_an_eighth_of_the_memory_within_limits(has: int, cache: str) -> None:
    assert state_settings(has)["shared_buffers"] == cache


def test_the_smallest_limit_of_the_control_groups_holds(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/outer/inner\n")
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    machine = memory(tmp_path / "none", tmp_path / "none")
    (tmp_path / "outer" / "inner" / "memory.max").write_text("max\n")
    assert memory(tmp_path, own) == machine
    (tmp_path / "outer" / "memory.max").write_text("50000000\n")
    assert memory(tmp_path, own) == 50_000_000
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("40000000\n")
    assert memory(tmp_path, own) == 40_000_000


def test_a_state_server_starts_with_them(tmp_path: Path) -> None:
    server = state_server(tmp_path, durable=False)
    server.ensure()
    server.start()
    try:
        with psycopg.connect(server.dsn) as conn:
            shown = conn.execute(
                "SELECT name, setting::int8 * CASE unit WHEN '8kB' THEN 8192 WHEN 'MB' THEN 1048576 ELSE 1 END"
                " FROM pg_settings WHERE name IN ('shared_buffers', 'max_wal_size', 'checkpoint_timeout')"
            ).fetchall()
            assert conn.execute("SHOW wal_level").fetchone() == ("minimal",)
        assert dict(shown) == {
            "shared_buffers": int(state_settings(memory())["shared_buffers"].removesuffix("MB")) * 2**20,
            "max_wal_size": 2 * GB,
            "checkpoint_timeout": 900,
        }
    finally:
        server.stop()
