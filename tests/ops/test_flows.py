"""`instep flow check` and `instep flow run` on a real store."""

import json
import os
from pathlib import Path

import psycopg
import pytest
from tests.fixtures.postgres import PostgresForTests

from instep_ops.cli.app import run

GOOD = (
    "SELECT p.sku, p.name, sum(l.on_hand) AS on_hand FROM products p JOIN levels l ON l.product_id = p.id GROUP BY p.id"
)


@pytest.fixture
def project(tmp_path: Path, postgres: PostgresForTests, monkeypatch: pytest.MonkeyPatch) -> Path:
    store = postgres.database()
    with psycopg.connect(store) as conn:
        conn.execute("CREATE TABLE products (id int PRIMARY KEY, sku text NOT NULL UNIQUE, name text)")
        conn.execute("CREATE TABLE levels (product_id int PRIMARY KEY, on_hand int NOT NULL)")
        conn.execute("CREATE TABLE other (id int PRIMARY KEY)")
        conn.execute("INSERT INTO products SELECT n, 'sku-' || n, NULL FROM generate_series(1, 9) n")
        conn.execute("INSERT INTO levels SELECT n, n FROM generate_series(1, 9) n")
    monkeypatch.setenv("FLOWS_STORE", store)
    toml = '[sources.shop]\ndsn = "env:FLOWS_STORE"\ntables = ["products", "public.lev*"]\n'
    (tmp_path / "instep.toml").write_text(toml)
    (tmp_path / "flows").mkdir()
    return tmp_path


def write(project: Path, name: str, sql: str, key: str = "sku") -> None:
    (project / "flows" / f"{name}.sql").write_text(f'/* instep\nkey = "{key}"\n*/\n{sql}\n')


def check(project: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, dict[str, object]]]:
    code = run(["flow", "check", *words, "--json", "--project", str(project)])
    shown = json.loads(capsys.readouterr().out)
    assert shown["ok"] == (code == 0)
    return code, {each["name"]: each for each in shown["checks"]}


def test_a_good_flow_says_what_it_reads_and_gives(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(project, "card", GOOD)
    code, checks = check(project, capsys)
    assert code == 0
    assert sorted(checks["card"]["tables"]) == ["public.levels", "public.products"]  # type: ignore[call-overload]
    assert checks["card"]["columns"] == [
        {"name": "sku", "type": "text"}, {"name": "name", "type": "text"}, {"name": "on_hand", "type": "bigint"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("sql", "code", "told"),
    [
        ("SELECT sku, FROM products", "SYNTAX", "syntax"),
        ("SELECT sku, nmae FROM products", "RESOLVE", '"nmae": FROM has no column'),
        ("SELECT sku, now() AS at FROM products", "VOLATILE", "CURRENT_TIMESTAMP"),
        ("SELECT id::text AS sku FROM other", "UNKNOWN_TABLE", "other"),
        ("SELECT name FROM products", "KEY", "sku"),
    ],
)
def test_a_refused_flow_is_one_line_with_its_code(
    sql: str, code: str, told: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(project, "good", GOOD)
    write(project, "bad", sql)
    exit_code, checks = check(project, capsys)
    assert exit_code == 2
    assert checks["good"]["ok"] and not checks["bad"]["ok"]
    assert checks["bad"]["code"] == code
    assert told in str(checks["bad"]["cause"])
    assert run(["flow", "check", "bad", "--project", str(project)]) == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"FAILED bad: [{code}]")


def test_run_shows_the_first_documents(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(project, "card", GOOD)
    assert run(["flow", "run", "--limit", "2", "--json", "--project", str(project)]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"sku": "sku-1", "name": None, "on_hand": 1}, {"sku": "sku-2", "name": None, "on_hand": 2},
    ]  # fmt: skip
    assert run(["flow", "run", "card", "--project", str(project)]) == 0
    assert "sku-9" in capsys.readouterr().out


def test_an_unknown_flow(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(project, "card", GOOD)
    assert run(["flow", "check", "crad", "--project", str(project)]) == 2
    assert "no flow 'crad'" in capsys.readouterr().err


def test_a_flow_may_be_named_by_its_file(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(project, "card", GOOD)
    assert check(project, capsys, str(project / "flows" / "card.sql"))[0] == 0
    assert run(["flow", "run", "flows/card.sql", "--project", str(project)]) == 0


def test_a_table_that_the_publication_lacks_is_told(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(project, "card", GOOD)
    with psycopg.connect(os.environ["FLOWS_STORE"]) as conn:
        conn.execute("CREATE PUBLICATION instep FOR TABLE products")
    code, checks = check(project, capsys)
    assert (code, checks["card"]["uncaptured"]) == (0, ["public.levels"])
    assert run(["doctor", "--project", str(project)]) == 4
    (told,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAILED")]
    assert "public.levels" in told and "ALTER PUBLICATION" in told


def test_a_view_is_told_from_a_table_that_is_not_captured(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with psycopg.connect(os.environ["FLOWS_STORE"]) as conn:
        conn.execute("CREATE VIEW cheap AS SELECT id, sku FROM products")
    write(project, "card", "SELECT sku FROM cheap")
    code, checks = check(project, capsys)
    assert (code, checks["card"]["code"]) == (2, "UNKNOWN_TABLE")
    assert str(checks["card"]["remedy"]).startswith("It is a view: write its SELECT in its place")
