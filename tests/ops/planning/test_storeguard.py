"""The store's own guard: what commits, what does not, and what a judged migration may do."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.fixtures.postgres import PostgresForTests

from instep_ops.cli.app import run

SCHEMA = """CREATE TABLE products (id bigint PRIMARY KEY, sku text NOT NULL, price numeric(10,2), weight real);
CREATE TABLE other.private (x int)"""
GUARDED = "nobody has judged"


class Store:
    """A store with a project beside it."""

    def __init__(self, dsn: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.dsn, self.project, self._capsys = dsn, project, capsys

    def execute(self, *statements: str) -> None:
        """In one transaction."""
        with closing(psycopg.connect(self.dsn)) as conn, conn.transaction():
            for statement in statements:
                conn.execute(statement.encode())

    def columns(self) -> set[str]:
        with psycopg.connect(self.dsn) as conn:
            names = "SELECT attname FROM pg_attribute WHERE attrelid = 'products'::regclass AND attnum > 0"
            return {row[0] for row in conn.execute(f"{names} AND NOT attisdropped".encode()).fetchall()}

    def instep(self, *words: str, code: int = 0) -> Any:
        self._capsys.readouterr()
        assert run(["schema", *words, "--project", str(self.project), "--json"]) == code
        return json.loads(self._capsys.readouterr().out or "null")

    def check(self, migration: str, *words: str, code: int = 0) -> Any:
        (self.project / "m.sql").write_text(migration)
        return self.instep("check-ddl", str(self.project / "m.sql"), "--allow", *words, code=code)


@pytest.fixture
def store(
    postgres: PostgresForTests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Store:
    made = Store(postgres.database(), tmp_path, capsys)
    monkeypatch.setenv("INSTEP_SCRATCH", postgres.dsn)
    monkeypatch.setenv("GUARDED_STORE", made.dsn)
    (tmp_path / "instep.toml").write_text('[sources.shop]\ndsn = "env:GUARDED_STORE"\n')
    made.execute("CREATE SCHEMA other", SCHEMA)
    assert made.instep("guard") == {"tables": 1, "installed": True}
    return made


@pytest.mark.parametrize(
    "statements",
    [
        ["ALTER TABLE products ADD COLUMN note text"],
        ["ALTER TABLE products ADD COLUMN a int, ADD COLUMN b int", "CREATE INDEX ON products (a)"],
        ["ALTER TABLE products RENAME COLUMN sku TO code", "ALTER TABLE products RENAME COLUMN code TO sku"],
        ["CREATE TABLE fresh (id int)", "DROP TABLE fresh", "ALTER TABLE other.private DROP COLUMN x"],
        ["ALTER TABLE products ALTER price SET DEFAULT 1", "CREATE VIEW v AS SELECT * FROM products"],
        ["INSERT INTO products VALUES (1, 'a')"],
    ],
)
def test_what_passes(store: Store, statements: list[str]) -> None:
    store.execute(*statements)
    store.execute("ALTER TABLE products ADD COLUMN later text")


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE products DROP COLUMN weight",
        "ALTER TABLE products RENAME COLUMN weight TO mass",
        "ALTER TABLE products ALTER price TYPE numeric(12,4)",
        "ALTER TABLE products ADD COLUMN c int NOT NULL",
        "ALTER TABLE products ALTER sku DROP NOT NULL",
        "ALTER TABLE products DROP CONSTRAINT products_pkey",
        "ALTER TABLE products REPLICA IDENTITY FULL",
        "ALTER TABLE products RENAME TO goods",
        "ALTER TABLE products SET SCHEMA other",
        "DROP TABLE products",
        "DROP SCHEMA public CASCADE",
    ],
)
def test_what_does_not_commit(store: Store, statement: str) -> None:
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match=GUARDED):
        store.execute("ALTER TABLE products ADD COLUMN note text", statement)
    assert store.columns() == {"id", "sku", "price", "weight"}


def test_a_judged_migration_runs_once(store: Store) -> None:
    migration = "ALTER TABLE products DROP COLUMN weight"
    assert store.check(migration)["allowed"] == ["public.products"]
    store.execute(migration)
    assert "weight" not in store.columns()
    store.execute("ALTER TABLE products ADD COLUMN weight real")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        store.execute(migration)


def test_what_is_refused_is_not_allowed_unless_it_is_meant(store: Store) -> None:
    migration = "ALTER TABLE products RENAME COLUMN weight TO mass"
    assert store.check(migration, code=1)["allowed"] == []
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        store.execute(migration)
    accepted = store.check(migration, "--accept", "public.products.mass", "--accept", "public.products.weight")
    assert accepted["allowed"] == ["public.products"]
    store.execute(migration)


def test_a_judged_drop(store: Store) -> None:
    assert store.check("DROP TABLE products", "--accept", "public.products")["allowed"] == ["public.products"]
    store.execute("DROP TABLE products")
    store.execute("CREATE TABLE products (id int)")


def test_an_ordinary_account_is_guarded_too_and_cannot_take_it_away(store: Store) -> None:
    with psycopg.connect(store.dsn, autocommit=True) as conn:
        conn.execute("DROP ROLE IF EXISTS guard_clerk")
        conn.execute("CREATE ROLE guard_clerk")
        conn.execute("ALTER TABLE products OWNER TO guard_clerk")
        conn.execute("SET ROLE guard_clerk")
        conn.execute("ALTER TABLE products ADD COLUMN note text")
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            conn.execute("ALTER TABLE products DROP COLUMN weight")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("DROP EVENT TRIGGER instep_guard")
        conn.execute("RESET ROLE")
        conn.execute("REASSIGN OWNED BY guard_clerk TO CURRENT_USER")
        conn.execute("DROP ROLE guard_clerk")


def test_without_the_guard(store: Store) -> None:
    assert store.instep("guard", "--remove") == {"tables": 0, "installed": False}
    store.execute("ALTER TABLE products DROP COLUMN weight")
    store.instep("guard", "--remove")
    (store.project / "m.sql").write_text("ALTER TABLE products ADD COLUMN weight real")
    assert run(["schema", "check-ddl", str(store.project / "m.sql"), "--allow", "--project", str(store.project)]) == 4
