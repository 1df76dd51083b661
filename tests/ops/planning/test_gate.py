"""`instep schema check-ddl`: each kind of migration on a real PostgreSQL, with its verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.fixtures.postgres import PostgresForTests

from instep_ops.cli.app import run
from instep_ops.planning.subjects import write
from instep_schemas.bundle import Bundle, version_of
from instep_schemas.derive import derive
from instep_schemas.wire import WireOptions

SCHEMA = """
CREATE TYPE mood AS ENUM ('sad', 'ok', 'fine');
CREATE TABLE products (
    id bigint PRIMARY KEY, sku text NOT NULL UNIQUE, name text, price numeric(10,2) NOT NULL DEFAULT 0, qty int,
    weight real, at timestamp(3), seen timestamp, feeling mood, code varchar(10), big bigint);
CREATE TABLE levels (product_id bigint, site text, on_hand int NOT NULL, PRIMARY KEY (product_id, site));
CREATE TABLE loose (x int);
"""
CARD = """/* instep
target = "crm"  key = "sku"
*/
SELECT p.sku, p.name, p.qty, p.price, sum(l.on_hand) AS stock FROM products p LEFT JOIN levels l ON l.product_id = p.id
GROUP BY p.id"""


@pytest.fixture
def project(tmp_path: Path, postgres: PostgresForTests, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INSTEP_SCRATCH", postgres.dsn)
    (tmp_path / "instep.toml").write_text('[sources.shop]\ndsn = "env:GATE_STORE"\n[targets.crm]\ntype = "tryton"\n')
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "card.sql").write_text(CARD)
    (tmp_path / "schema.sql").write_text(SCHEMA)
    return tmp_path


class Gate:
    """Asks about a migration."""

    def __init__(self, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.project, self._capsys = project, capsys

    def text(self, migration: str, *words: str, code: int = 0, schema: bool = True) -> str:
        file = self.project / "m.sql"
        file.write_text(migration)
        given = ["--schema", str(self.project / "schema.sql")] if schema else []
        self._capsys.readouterr()
        assert run(["schema", "check-ddl", str(file), *given, "--project", str(self.project), *words]) == code
        shown = self._capsys.readouterr()
        return shown.err if code > 1 else shown.out

    def __call__(self, migration: str, *words: str, code: int = 0, schema: bool = True) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.text(migration, *words, "--json", code=code, schema=schema))
        assert found["ok"] == (code == 0)
        return found

    def changes(self, migration: str, *words: str, code: int = 0) -> list[tuple[str, str, str]]:
        (table,) = self(migration, *words, code=code)["tables"]
        return [(each["column"], each["kind"], each["level"]) for each in table["changes"]]


@pytest.fixture
def gate(project: Path, capsys: pytest.CaptureFixture[str]) -> Gate:
    return Gate(project, capsys)


SAFE = {
    "ALTER TABLE products ADD COLUMN c int": [("c", "added", "FULL")],
    "ALTER TABLE products ADD COLUMN c int NOT NULL DEFAULT 7": [("c", "added", "FULL")],
    # capture goes on writing it as nullable
    "ALTER TABLE products ADD COLUMN c int NOT NULL": [("c", "added", "FULL"), ("c", "not null", "FULL")],
    "ALTER TABLE products ALTER name SET NOT NULL": [],
    "ALTER TABLE products DROP COLUMN weight": [("weight", "removed", "FULL")],
    "ALTER TABLE products ALTER price TYPE numeric(12,2)": [("price", "precision", "FULL")],
    "ALTER TABLE products ALTER code TYPE text": [("code", "type", "FULL")],
    "ALTER TABLE products ALTER sku DROP NOT NULL": [("sku", "nullable", "BACKWARD")],
    "ALTER TABLE products ALTER price SET DEFAULT 1": [("price", "default", "FULL")],
    "ALTER TYPE mood ADD VALUE 'new' BEFORE 'ok'": [("feeling", "label added", "FULL")],
    "CREATE INDEX CONCURRENTLY i ON products (name)": [],
    "CREATE VIEW v AS SELECT * FROM products": [],
    "ALTER TABLE loose ADD COLUMN y int": [("y", "added", "FULL")],
    "UPDATE products SET qty = 0": [],
}


@pytest.mark.parametrize("migration", SAFE)
def test_what_may_run(migration: str, gate: Gate) -> None:
    found = gate(migration)
    assert [(c["column"], c["kind"], c["level"]) for t in found["tables"] for c in t["changes"]] == SAFE[migration]
    assert all(not table["stops"] for table in found["tables"])


DANGEROUS = {
    "ALTER TABLE products RENAME COLUMN weight TO mass": ("weight", "renamed", "FULL"),
    "ALTER TABLE products ALTER price TYPE numeric(12,4)": ("price", "scale", "FULL"),
    "ALTER TABLE products ALTER at TYPE timestamp(6)": ("at", "meaning of the type", "FULL"),
    "ALTER TABLE products ADD COLUMN c timestamptz DEFAULT now()": ("c", "rows rewritten", "FULL"),
    "ALTER TABLE products ADD COLUMN c bigserial": ("c", "rows rewritten", "FULL"),
    "ALTER TABLE products ADD COLUMN c int GENERATED ALWAYS AS IDENTITY": ("c", "rows rewritten", "FULL"),
    "ALTER TABLE products ADD COLUMN c uuid DEFAULT gen_random_uuid()": ("c", "rows rewritten", "FULL"),
    "ALTER TABLE products ALTER weight TYPE float8": ("weight", "rows rewritten", "BACKWARD"),
    "CREATE TYPE m2 AS ENUM ('fine', 'ok', 'sad'); ALTER TABLE products ALTER feeling TYPE m2 USING feeling::text::m2":
        ("feeling", "order of labels", "FULL"),
    "CREATE TYPE m2 AS ENUM ('sad', 'ok'); ALTER TABLE products ALTER feeling TYPE m2 USING feeling::text::m2":
        ("feeling", "label removed", "FULL"),
    "ALTER TABLE levels DROP CONSTRAINT levels_pkey, ADD PRIMARY KEY (site, product_id)": ("", "key", "FULL"),
    "ALTER TABLE levels DROP CONSTRAINT levels_pkey": ("", "key", "FULL"),
    "DROP TABLE loose": ("", "table dropped", "FULL"),
    "ALTER TABLE loose RENAME TO tight": ("", "table renamed", "FULL"),
    "CREATE SCHEMA attic; ALTER TABLE loose SET SCHEMA attic": ("", "table renamed", "FULL"),
    "DROP TABLE loose; CREATE TABLE loose (x int)": ("", "table replaced", "FULL"),
}  # fmt: skip


@pytest.mark.parametrize("migration", DANGEROUS)
def test_dangers_that_no_level_sees(migration: str, gate: Gate) -> None:
    found = gate(migration, code=1)
    (table,) = found["tables"]
    assert DANGEROUS[migration] in [(c["column"], c["kind"], c["level"]) for c in table["changes"] if c["danger"]]
    assert not [c for c in table["changes"] if c["danger"] and not (c["why"] and c["rewrite"])]
    # a person may have meant it
    names = [
        word for c in table["changes"] if c["danger"]
        for name in (f"{table['table']}.{c['column']}" if c["column"] else table["table"], f"card.{c['column']}")
        for word in ("--accept", name)
    ]  # fmt: skip
    if not any(flow["breaks"] or flow["stops"] for flow in found["flows"]):
        accepted = gate(migration, *names)
        assert all(c["accepted"] for t in accepted["tables"] for c in t["changes"] if c["danger"])


STOPPED = {
    "ALTER TABLE products ALTER code TYPE int USING 0": "products.code: null|string → null|int",
    "ALTER TABLE products ALTER big TYPE int": "products.big: null|long → null|int",
    "ALTER TABLE products ALTER big TYPE numeric": "products.big: null|long → null|string",
    "ALTER TABLE products ALTER seen TYPE timestamptz": "products.seen: null|long → null|string",
}


@pytest.mark.parametrize("migration", STOPPED)
def test_what_would_stop_capture_names_the_column(migration: str, gate: Gate) -> None:
    (table,) = gate(migration, code=1)["tables"]
    assert len(table["stops"]) == 1
    assert table["stops"][0].startswith(STOPPED[migration])
    assert gate(migration, "--level", "NONE", code=0 if "big" in migration else 1)["tables"][0]["stops"] == []


def test_order_of_deployment(gate: Gate) -> None:
    def first(migration: str) -> str:
        return str(gate(migration, "--level", "NONE")["tables"][0]["changes"][0]["first"])

    assert first("ALTER TABLE products ALTER qty TYPE bigint").startswith("consumers first")
    assert first("ALTER TABLE products ALTER big TYPE int").startswith("the store first")
    assert first("ALTER TABLE products ADD COLUMN c int").startswith("the migration first")
    assert first("ALTER TABLE products DROP COLUMN weight").startswith("consumers first")


def test_flows_that_read_the_column(gate: Gate) -> None:
    found = gate("ALTER TABLE products DROP COLUMN name; ALTER TABLE products ALTER qty TYPE bigint", code=1)
    (table,), (flow,) = found["tables"], found["flows"]
    assert {c["column"]: c["flows"] for c in table["changes"]} == {"name": ["card"], "qty": ["card"]}
    assert {c["column"]: c["first"] for c in table["changes"]}["name"] == "flows first: card"
    assert (flow["flow"], flow["target"]) == ("card", "crm")
    assert "name" in flow["breaks"]


def test_documents_that_change_their_type(gate: Gate) -> None:
    found = gate("ALTER TABLE products ALTER qty TYPE bigint")
    (flow,) = found["flows"]
    assert [(c["column"], c["kind"], c["level"]) for c in flow["changes"]] == [("qty", "type", "BACKWARD")]


def test_a_key_that_changes_its_type_stops_the_worker(gate: Gate) -> None:
    (gate.project / "flows" / "card.sql").write_text('/* instep key = "id" */ SELECT id, name FROM products')
    refused = ["the type of its key changes: the worker refuses it under this name"]
    (flow,) = gate("ALTER TABLE products ALTER id TYPE int", "--level", "NONE", code=1)["flows"]
    assert flow["stops"] == refused
    (gate.project / "flows" / "card.sql").write_text(CARD)
    (flow,) = gate("ALTER TABLE products ALTER sku TYPE varchar(30)", code=1)["flows"]
    assert flow["stops"] == refused


def test_a_flow_that_is_refused_already(gate: Gate) -> None:
    (gate.project / "flows" / "bad.sql").write_text('/* instep key = "id" */ SELECT id, nope FROM products')
    (flow,) = gate("ALTER TABLE products ADD COLUMN c int")["flows"]
    assert (flow["flow"], flow["breaks"]) == ("bad", "") and "nope" in flow["before"]


def test_a_new_table(gate: Gate) -> None:
    (found,) = gate("CREATE TABLE fresh (id int PRIMARY KEY)")["tables"]
    assert "ALTER PUBLICATION instep ADD TABLE public.fresh" in found["changes"][0]["why"]
    (found,) = gate("CREATE TABLE fresh (id int)")["tables"]
    assert "no primary key" in found["changes"][0]["why"]


def test_several_migrations_in_order(gate: Gate, tmp_path: Path) -> None:
    second = tmp_path / "2.sql"
    second.write_text("ALTER TABLE products RENAME COLUMN c TO d")
    (table,) = gate("ALTER TABLE products ADD COLUMN c int", str(second))["tables"]
    assert [(c["column"], c["kind"]) for c in table["changes"]] == [("d", "added")]


def test_the_store_itself(gate: Gate, postgres: PostgresForTests, monkeypatch: pytest.MonkeyPatch) -> None:
    dsn = postgres.database()
    with psycopg.connect(dsn) as conn:
        conn.execute(SCHEMA)
        conn.execute("INSERT INTO products (id, sku) VALUES (1, 'A')")
    monkeypatch.setenv("GATE_STORE", dsn)
    migration = "ALTER TABLE products RENAME COLUMN weight TO mass"
    assert gate(migration, code=1, schema=False) == gate(migration, code=1)
    with psycopg.connect(dsn) as conn:
        assert conn.execute("SELECT weight FROM products").fetchall() == [(None,)], "the store is only read"


def test_against_the_lock(gate: Gate, postgres: PostgresForTests) -> None:
    """Offline, with the versions and the level that were registered."""
    from contextlib import closing

    from instep_connectors.postgres.session import connect
    from instep_ops.planning.state import look

    dsn = postgres.database()
    with psycopg.connect(dsn) as conn:
        conn.execute(SCHEMA)
    with closing(connect(dsn, "test")) as plain:
        (relation,) = look(plain, ["products"], {}).relations.values()
    text = derive(relation, WireOptions("shop", "")).value_text
    subject = "shop.public.products-value"
    lock = Bundle(
        (version_of(subject, {"version": 1, "id": 1, "schema": text}),), {subject: {"compatibilityLevel": "FULL"}}
    )
    write(gate.project / "schemas.lock", lock.text())
    (table,) = gate("ALTER TABLE products ALTER qty TYPE bigint", code=1)["tables"]
    assert table["level"] == "FULL"
    assert table["stops"] == ["products.qty: null|int → null|long, breaks readers of v1"]
    write(gate.project / "schemas.lock", lock.text().replace("mood", "food"))
    assert "does not fit its GUID" in gate.text("SELECT 1", code=6)


def test_words_for_people(gate: Gate) -> None:
    shown = gate.text("ALTER TABLE products RENAME COLUMN name TO title", code=1)
    assert "public.products (shop.public.products, level BACKWARD)" in shown
    assert "DANGER name: renamed (name → title)" in shown
    assert "Read by: card." in shown and "BREAKS" in shown
    assert shown.rstrip().endswith("Do not run it as it is.")
    assert gate.text("SELECT 1") == "No captured table changes.\nMay run as it is.\n"


@pytest.mark.parametrize(
    ("migration", "words", "told"),
    [
        ("ALTER TABLE nope ADD COLUMN c int", [], 'm.sql fails: relation "nope" does not exist'),
        ("SELECT 1;\nSELECT nope", [], "m.sql, line 2 fails"),
        ("SELECT 1", ["--level", "SOME"], "no compatibility level"),
        ("SELECT 1", ["--source", "x"], "no source 'x'"),
        ("SELECT 1", ["nothing.sql"], "cannot be read"),
    ],
)
def test_what_cannot_be_asked(migration: str, words: list[str], told: str, gate: Gate) -> None:
    assert told in gate.text(migration, *words, code=2)


def test_a_flow_over_joined_sources_is_not_judged_on_one_store(gate: Gate) -> None:
    sources = '[sources.shop]\ndsn = "env:GATE_STORE"\n[sources.till]\ndsn = "env:TILL"\njoined_to = "shop"\n'
    (gate.project / "instep.toml").write_text(f'{sources}[targets.crm]\ntype = "tryton"\n')
    flows = gate.project / "flows"
    (flows / "card.sql").write_text(CARD.replace("target", 'source = "shop"  target'))
    both = "SELECT p.id, s.total FROM products p JOIN till.sales s ON s.id = p.id"
    (flows / "both.sql").write_text(f'/* instep\nsource = "till"  key = "id"\n*/\n{both}')
    found = gate("ALTER TABLE products ADD COLUMN c int", "--source", "shop")
    assert found["unjudged"] == ["both"] and found["flows"] == []
    assert "flow both is not judged" in gate.text("ALTER TABLE products ADD COLUMN c int", "--source", "shop")
    broken = gate("ALTER TABLE products DROP COLUMN name", "--source", "shop", code=1)
    assert [each["flow"] for each in broken["flows"]] == ["card"]
    (flows / "card.sql").unlink()
    # of the joined store, whose tables flows call otherwise
    assert gate("ALTER TABLE products ADD COLUMN c int", "--source", "till")["unjudged"] == ["both"]
