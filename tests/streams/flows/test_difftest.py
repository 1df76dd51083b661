"""Documents equal the SELECT on the store, whatever happens; and each defect made on purpose is noticed."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures.postgres import PostgresForTests
from tests.streams.flows.difftest.__main__ import main
from tests.streams.flows.difftest.patterns import texts
from tests.streams.flows.difftest.run import Result, Run, read
from tests.streams.flows.difftest.script import split
from tests.streams.flows.difftest.selects import Selects
from tests.streams.flows.difftest.store import Store

from instep_streams.flows import edges, engine, images, intermediate, parts, replica, resolve
from instep_streams.flows.refusals import REFUSALS

FOLDER = Path(__file__).parent / "difftest"
ROUNDS = int(os.environ.get("ROUNDS", "20"))
SELECTS = int(os.environ.get("SELECTS", "40"))
SCHEMA = (FOLDER / "shop" / "schema.sql").read_text(encoding="utf-8")
SEEDS = range(int(os.environ.get("SEEDS", "1")))


@pytest.fixture
def databases(postgres: PostgresForTests) -> Iterator[tuple[str, str]]:
    yield postgres.database(), postgres.database()


def differences(folder: str, databases: tuple[str, str], seed: int, rounds: int, **options: Any) -> list[str]:
    stop = options.pop("stop_at_difference", False)
    run = Run(*read(FOLDER / folder), *databases, seed, **options)
    try:
        run.run(rounds, stop_at_difference=stop)
    finally:
        run.close()
        run.store.conn.close()
    assert not [result.line(name) for name, result in run.results.items() if not _as_named(name, result)]
    return [result.line(name) for name, result in run.results.items() if result.wrong]


def _as_named(name: str, result: Result) -> bool:
    """Flows that are to be refused say so in their name, with the code."""
    if result.refused or name.startswith("refused_"):
        return bool(result.refused) and name.startswith(f"refused_{result.refused}")
    return result.checks > 0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("folder", ["shop", "types", "corners"])
def test_documents_equal_the_select(folder: str, seed: int, databases: tuple[str, str]) -> None:
    assert differences(folder, databases, seed, ROUNDS) == []


@pytest.fixture
def any_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every derived table that can be kept as an intermediate result is; some of its dirty keys always wait."""
    monkeypatch.setattr(intermediate, "_worth", lambda tree: True)
    monkeypatch.setattr(engine, "SLICE", 2)


@pytest.mark.usefixtures("any_part")
def test_documents_over_intermediate_results_equal_the_select(databases: tuple[str, str]) -> None:
    assert differences("shop", databases, 3, ROUNDS) == []


@pytest.mark.usefixtures("any_part")
def test_random_selects_over_intermediate_results_are_right(databases: tuple[str, str]) -> None:
    run, flows = random_run(databases, 7, ROUNDS)
    assert run.parts
    assert not [result.line(name) + flows[name] for name, result in run.results.items() if result.wrong]


def _read_while_behind(evaluation: Any, kept: Any) -> None:
    evaluation.use(None if kept is None else kept.plan, lambda: True)


@pytest.mark.parametrize(
    ("where", "what", "defect"),
    [
        (parts.KeptPart, "_bring_up", lambda self, anchors: []),
        (engine, "use", _read_while_behind),
    ],
    ids=["never brought up", "read while behind"],
)
@pytest.mark.usefixtures("any_part")
def test_a_defect_of_intermediate_results_is_noticed(
    where: Any, what: str, defect: Any, databases: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, what, defect)
    assert differences("shop", databases, 1, 60, stop_at_difference=True)


def _forgetting(found: Any, most: int) -> tuple[Any, Any]:
    now, _ = images.divide(found, most)
    return now, set()


def test_forgotten_keys_of_a_large_change_are_noticed(
    databases: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "SLICE", 2)
    monkeypatch.setattr(engine, "divide", _forgetting)
    assert differences("shop", databases, 1, 60, stop_at_difference=True)


def random_flows(seed: int, count: int) -> dict[str, str]:
    selects = Selects(random.Random(seed))
    return {f"seed {seed}, select {number:03}": selects.flow() for number in range(count)}


def random_run(databases: tuple[str, str], seed: int, rounds: int, **options: Any) -> tuple[Run, dict[str, str]]:
    flows = random_flows(seed, SELECTS)
    run = Run(SCHEMA, flows, *databases, seed)
    try:
        run.run(rounds, **options)
    finally:
        run.close()
        run.store.conn.close()
    return run, flows


@pytest.mark.parametrize("seed", SEEDS)
def test_any_select_is_right_or_refused(seed: int, databases: tuple[str, str]) -> None:
    run, flows = random_run(databases, seed, ROUNDS // 2)
    assert not [result.line(name) + flows[name] for name, result in run.results.items() if result.wrong]
    assert {result.refused for result in run.results.values()} <= {*REFUSALS, ""}
    right = [result for result in run.results.values() if result.checks and result.rows]
    assert len(right) > len(flows) / 3


def _no_barrier(*_: Any) -> None:
    return None


@pytest.mark.parametrize(("where", "seed"), [(resolve, 4), (edges, 1)])
def test_a_defect_of_the_compiler_is_noticed(
    where: Any, seed: int, databases: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, "barrier", _no_barrier)
    run, _ = random_run(databases, seed, 40, stop_at_difference=True)
    assert [name for name, result in run.results.items() if result.differences]


def _no_walks(self: Any, sql: str, values: Sequence[Any]) -> list[Any]:
    return []


def _new_images_only(rows: Sequence[Any], flag: int, old: Sequence[int], width: int) -> set[Any]:
    found = {tuple(row[i + width] for i in old) for row in rows if row[flag]}
    return {each for each in found if None not in each}


def _without(text: str, function: Any, instead: str = "") -> Any:
    def changed(*args: Any) -> str:
        sql: str = function(*args)
        assert text in sql
        return sql.replace(text, instead)

    return changed


def _compared_by_value(columns: Sequence[str]) -> str:
    found = _differs(columns)
    return found if "prefs" in found else found.replace("NOT pg_catalog.record_image_eq", "pg_catalog.record_ne")


_differs = images._differs

MUTATIONS = {
    "no walk over several tables": (engine.Engine, "_walk", _no_walks),
    "no before images": (images, "_values", _new_images_only),
    "no position rule": (
        replica,
        "upsert_sql",
        _without('WHERE r."_instep_pos" <= EXCLUDED."_instep_pos"', replica.upsert_sql),
    ),
    "no tombstones": (
        replica,
        "upsert_sql",
        _without('g."_instep_pos" > d."_instep_pos"', replica.upsert_sql, "false"),
    ),
    "position rule too strict": (
        replica,
        "upsert_sql",
        _without(
            'r."_instep_pos" <= EXCLUDED."_instep_pos"',
            replica.upsert_sql,
            'r."_instep_pos" < EXCLUDED."_instep_pos" - 3',
        ),
    ),
    "values compared by =": (images, "_differs", _compared_by_value),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_defect_is_noticed(name: str, databases: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*MUTATIONS[name])
    folder = "types" if "compared" in name else "shop"
    assert differences(folder, databases, 1, 100, stop_at_difference=True)


def test_the_command_tells_of_each_flow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "flows").mkdir()
    (tmp_path / "schema.sql").write_text(
        "CREATE EXTENSION IF NOT EXISTS nonesuch; COMMENT ON EXTENSION nonesuch IS 'a; b';"
        "CREATE TABLE t (id int PRIMARY KEY, n int CHECK (n > 5 AND n < 3)); ALTER TABLE t OWNER TO a_stranger;"
        'CREATE INDEX CONCURRENTLY ON t (n); GRANT SELECT ON t TO a_stranger, "web-app";'
    )
    (tmp_path / "flows" / "good.sql").write_text('/* instep key = "id" */ SELECT id, n FROM t')
    (tmp_path / "flows" / "bad.sql").write_text('/* instep key = "id" */ SELECT id, now() AS n FROM t')
    assert main(tmp_path, 5, 1) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "bad: refused VOLATILE"
    assert lines[1].startswith("good: 1 checks, ") and ", 0 differences" in lines[1]
    (tmp_path / "schema.sql").write_text("CREATE TABLE t (id int PRIMARY KEY, n nonsense)")
    assert main(tmp_path, 5, 1) == 2
    assert 'type "nonsense" does not exist' in capsys.readouterr().err


def test_a_script_is_split_where_psql_splits_it() -> None:
    script = "SELECT 'x;y' /* ; */; CREATE FUNCTION f() AS $f$ a; b $f$; -- one; line\nSELECT \";\", E'\\';'"
    assert [each.strip()[:8] for each in split(script)] == ["SELECT '", "CREATE F", "-- one; "]


@pytest.mark.parametrize("pattern", [r"^[A-Z]{2,4}\d{3}$", r"^[^@]+@[^@]+\.[a-z]{2,}$", r"^(?:foo|bar)+-?$"])
def test_texts_are_drawn_for_a_checked_pattern(pattern: str) -> None:
    drawn = texts(pattern, 8)
    assert drawn and all(re.search(pattern, each) for each in drawn)


def test_lost_documents_are_noticed(databases: tuple[str, str]) -> None:
    assert differences("shop", databases, 1, 100, recover=False, stop_at_difference=True)


def test_rows_of_partitions_are_mixed(databases: tuple[str, str]) -> None:
    """They lie in one table of the replica: what hangs on their order is not determined, and no difference."""
    store = Store(
        databases[0],
        "CREATE TABLE t (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);"
        "CREATE TABLE low PARTITION OF t FOR VALUES FROM (0) TO (10);"
        "CREATE TABLE high PARTITION OF t FOR VALUES FROM (10) TO (20);"
        "INSERT INTO t SELECT i, i FROM generate_series(0, 19) i",
    )
    try:
        sql = 'SELECT 1, array_agg(id)::text, 0 FROM "public"."t"'
        seen = {row for _ in range(4) for rows in store.shuffled(sql) for row in rows}
        assert any(int(text[1:].split(",")[0]) >= 10 for _, text in seen)
    finally:
        store.conn.close()
