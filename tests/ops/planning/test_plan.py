"""`instep plan` and `instep apply` on a project that has really run: store, capture, worker, Kafka, registry."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.fixtures.postgres import PostgresForTests
from tests.streams.flows.harness import Shop

from instep.settings import KafkaSettings
from instep_connectors.kafka import TopicSpec, ensure_topics
from instep_connectors.kafka.described import describe
from instep_ops.cli.app import run
from instep_schemas.administration import RegistryAdmin
from instep_schemas.bundle import read

SCHEMA = """
CREATE TABLE products (id int PRIMARY KEY, sku text NOT NULL UNIQUE, name text, price numeric(10,2));
CREATE TABLE loose (x int);
INSERT INTO products SELECT i, 'sku' || i, 'product ' || i, i FROM generate_series(1, 9) i;
"""
CARD = "SELECT sku, name, price FROM products"


class Project:
    """A shop whose processes have run and stand still, and the command line on it."""

    def __init__(self, shop: Shop, capsys: pytest.CaptureFixture[str] | None = None) -> None:
        self.shop, self.capsys = shop, capsys
        self.folder = shop.folder
        self.table, self.card = f"{shop.name}.public.products", shop.named("card")
        self.toml()

    def toml(self, more: str = "") -> None:
        shop = self.shop
        (self.folder / "instep.toml").write_text(
            f'name = "{shop.name}"\n[sources.{shop.name}]\ndsn = "{shop.dsn}"\npartitions = 3\n'
            f'[kafka]\nbootstrap = "{shop.settings.kafka.bootstrap}"\n[state]\ndsn = "{shop.state}"\n'
            f'[registry]\nurl = "{shop.settings.registry.url}"\n[targets.crm]\ntype = "x"\ncalls_per_second = 2\n{more}'
        )

    def text(self, *words: str, code: int = 0) -> str:
        assert self.capsys is not None
        self.capsys.readouterr()
        assert run([*words, "--project", str(self.folder)]) == code
        shown = self.capsys.readouterr()
        return shown.err if code > 1 else shown.out

    def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(self.text(*words, "--json", code=code))

    def steps(self, *words: str) -> dict[tuple[str, str], dict[str, Any]]:
        found = self.json("plan", *words, code=1)
        return {(step["act"], step["name"]): step for step in found["steps"]}

    @property
    def admin(self) -> RegistryAdmin:
        return RegistryAdmin(self.shop.settings.registry.url)


@pytest.fixture(scope="module")
def ran(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresForTests, kafka: KafkaSettings, registry: str
) -> Iterator[Shop]:
    shop = Shop(tmp_path_factory.mktemp("plan"), postgres.database(), postgres.database(), kafka, registry)
    shop.execute(SCHEMA)
    shop.flow("card", "sku", CARD)
    with shop.capturing() as capture, shop.working() as worker:
        shop.settle(capture, worker)
    yield shop
    shop.close()


@pytest.fixture
def project(ran: Shop, capsys: pytest.CaptureFixture[str]) -> Iterator[Project]:
    """The project as it ran, its lock written."""
    made = Project(ran, capsys)
    made.text("apply", "--yes")
    yield made
    ran.flow("card", "sku", CARD)
    for file in (made.folder / "flows").glob("*.sql"):
        if file.stem != made.card:
            file.unlink()


def test_a_lock_and_then_nothing_to_do(project: Project) -> None:
    found = project.json("plan")
    assert found["steps"] == []
    lock = read((project.folder / "schemas.lock").read_text(), "x")
    assert f"{project.table}-value" in lock.subjects() and f"flow.{project.card}-key" in lock.subjects()
    assert [each for each in lock.versions if not (each.id and each.guid)] == []
    assert project.text("plan") == f"No differences; plan {found['hash']}.\n"
    assert project.json("apply", "--yes") == {"ok": True, "done": [], "left": [], "others": [], "lock": False}


def test_a_new_topic_is_created_with_its_settings(project: Project) -> None:
    name = f"dead.c{project.shop.name}"
    project.toml(
        f'[targets.c{project.shop.name}]\ntype = "x"\n[topics."*{name}"]\nconfig = {{"retention.ms" = "86400000"}}\n'
    )
    step = project.steps()["create topic", name]
    assert step["wanted"]["retention.ms"] == "86400000" and step["harm"] == ""
    assert f"create topic: {name}" in project.json("apply", "--yes")["done"]
    state = describe(project.shop.settings.kafka, [name])[name]
    assert (state.partitions, state.config["retention.ms"]) == (1, "86400000")
    assert ("create topic", name) not in {(s["act"], s["name"]) for s in json.loads(
        project.text("plan", "--json", code=0))["steps"]}  # fmt: skip


def test_a_harmful_setting_is_named_and_needs_to_be_allowed(project: Project) -> None:
    kafka = project.shop.settings.kafka
    project.toml(f'[topics."{project.table}"]\nconfig = {{"retention.ms" = "1000", "min.insync.replicas" = "1"}}\n')
    step = project.steps()["configure topic", project.table]
    assert step["was"]["retention.ms"] == "-1" and "deletes" in step["harm"]
    shown = project.text("plan", code=1)
    assert f"! configure topic: {project.table}" in shown and "retention.ms: -1 → 1000" in shown
    left = project.json("apply", "--yes", code=1)
    assert left["left"] == [f"configure topic: {project.table}"]
    assert describe(kafka, [project.table])[project.table].config["retention.ms"] == "-1"
    project.json("apply", "--yes", "--allow", project.table)
    assert describe(kafka, [project.table])[project.table].config["retention.ms"] == "1000"
    # back to what Instep needs: nothing is lost by keeping more
    project.toml()
    assert project.steps()["configure topic", project.table]["harm"] == ""
    project.json("apply", "--yes")


@pytest.mark.parametrize(("partitions", "why"), [(2, "cannot be taken away"), (8, "elsewhere")])
def test_partitions_of_a_topic_are_never_changed(partitions: int, why: str, project: Project) -> None:
    project.toml(f'[topics."{project.table}"]\npartitions = {partitions}\n')
    assert why in project.steps()["repartition topic", project.table]["refused"]
    project.json("apply", "--yes", "--allow", project.table, code=1)
    assert describe(project.shop.settings.kafka, [project.table])[project.table].partitions == 3


def test_copies_are_never_moved(project: Project) -> None:
    project.toml(f'[topics."{project.table}"]\nreplication = 3\n')
    assert "kafka-reassign-partitions" in project.steps()["change copies", project.table]["refused"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ('[topics."*.products"]\nconfig = {"cleanup.policy" = "compact"}\n', "must have cleanup.policy=delete"),
        ('[topics."*.__journal"]\npartitions = 2\n', "the order of"),
        ('[compatibility]\n"x" = "SOME"\n', "compatibility.x"),
    ],
)
def test_what_a_project_must_not_ask_for(more: str, told: str, project: Project) -> None:
    project.toml(more)
    assert told in project.text("plan", code=2)


def test_a_wildcard_means_tables_and_flows(project: Project) -> None:
    project.toml('[compatibility]\n"*" = "FULL"\n')
    found = {name for act, name in project.steps() if act == "set level"}
    topics = (project.table, f"flow.{project.card}")
    assert found == {f"{topic}-{part}" for topic in topics for part in ("key", "value")}
    project.toml()


def test_levels(project: Project) -> None:
    subject = f"{project.table}-value"
    project.toml(f'[compatibility]\n"{project.table}-*" = "FULL_TRANSITIVE"\n')
    step = project.steps()["set level", subject]
    assert (step["was"], step["wanted"], step["harm"]) == (
        {"level": "BACKWARD"}, {"level": "FULL_TRANSITIVE"}, "",
    )  # fmt: skip
    project.json("apply", "--yes")
    with project.admin as admin:
        assert admin.level(subject) == "FULL_TRANSITIVE"
    assert read((project.folder / "schemas.lock").read_text(), "x").level(subject) == "FULL_TRANSITIVE"
    assert project.json("plan")["steps"] == []
    # to promise less is a harm
    project.toml(f'[compatibility]\n"{subject}" = "BACKWARD"\n')
    assert project.steps()["set level", subject]["harm"]
    project.json("apply", "--yes", code=1)
    project.json("apply", "--yes", "--allow", subject)
    with project.admin as admin:
        assert admin.level(subject) == "BACKWARD"
        admin.call("DELETE", f"/config/{subject}")
        admin.call("DELETE", f"/config/{project.table}-key")
    project.toml()


def test_a_changed_flow_shows_its_differences_and_their_cost(project: Project) -> None:
    flow = project.folder / "flows" / f"{project.card}.sql"
    flow.write_text(
        '/* instep\nkey = "sku"  target = "crm"\n*/\n'
        "SELECT sku, CASE id WHEN 3 THEN 'three' ELSE name END AS name, price FROM products WHERE id <> 7"
    )
    notes = project.steps()["deploy flow", project.card]["notes"]
    assert notes[0] == "documents: 0 new, 1 changed, 1 gone"
    assert notes[1] == "crm: up to 2 writes, 1 s at 2 calls a second"
    assert sorted(notes[2:4]) == ["- sku7", '~ sku3: name: "product 3" → "three"']
    assert project.json("plan", "--samples", "0", code=1)["steps"][0]["notes"][1:] == [notes[1], notes[-1]]
    others = project.json("apply", "--yes")
    assert others["others"] == [f"deploy flow: {project.card}"] and others["done"] == []


def test_new_removed_and_refused_flows(project: Project) -> None:
    project.shop.flow("fresh", "id", "SELECT id, name FROM products")
    project.shop.flow("broken", "id", "SELECT id, nope FROM products")
    (project.folder / "flows" / f"{project.card}.sql").unlink()
    found = project.steps()
    fresh, broken, card = (project.shop.named(name) for name in ("fresh", "broken", "card"))
    assert found["create topic", f"flow.{fresh}"]["wanted"]["cleanup.policy"] == "compact"
    assert found["deploy flow", fresh]["notes"][0] == "documents: 9 new, 0 changed, 0 gone"
    assert found["deploy flow", fresh]["notes"][1] == '+ 1: {"id":1,"name":"product 1"}'
    assert "nope" in found["deploy flow", broken]["refused"]
    assert found["remove flow", card]["wanted"] == {"version": "none"}


def test_a_table_that_has_changed(project: Project) -> None:
    shop = project.shop
    shop.execute("ALTER TABLE products RENAME COLUMN price TO amount", "ALTER TABLE products ALTER name SET NOT NULL")
    try:
        notes = project.steps()["register schema", f"{project.table}-value"]["notes"]
        assert any(note.startswith("DANGER price: renamed? (price → amount)") for note in notes)
        assert not any("name" in note.split(":")[0] for note in notes), "capture goes on writing it as nullable"
    finally:
        shop.execute(
            "ALTER TABLE products RENAME COLUMN amount TO price", "ALTER TABLE products ALTER name DROP NOT NULL"
        )
    assert project.json("plan")["steps"] == []


def test_a_plan_is_for_the_cluster_it_saw(project: Project, tmp_path: Path) -> None:
    file, subject = tmp_path / "next.plan", f"{project.table}-value"
    project.toml(f'[compatibility]\n"{subject}" = "FULL"\n')
    project.text("plan", "--out", str(file), code=1)
    with project.admin as admin:
        admin.configure(f"{project.table}-key", {"compatibilityLevel": "NONE"})
        told = project.text("apply", str(file), code=2)
        assert "has moved on" in told and f"level {project.table}-key" in told
        admin.call("DELETE", f"/config/{project.table}-key")
        # other topics of the cluster are nobody's business
        ensure_topics(project.shop.settings.kafka, [TopicSpec(f"elsewhere{project.shop.name}")])
        assert project.json("apply", str(file))["done"] == [f"set level: {subject}"]
        # done once, it has moved on by itself
        assert "has moved on" in project.text("apply", str(file), code=2)
        admin.call("DELETE", f"/config/{subject}")
    project.toml()


def test_a_plan_is_for_the_project_it_was_made_of(project: Project, tmp_path: Path) -> None:
    file = tmp_path / "next.plan"
    project.toml(f'[compatibility]\n"{project.table}-value" = "FULL"\n')
    project.text("plan", "--out", str(file), code=1)
    project.toml()
    assert "files have changed" in project.text("apply", str(file), code=2)
    file.write_text(file.read_text().replace('"BACKWARD"', '"NONE"'))
    assert "is no plan" in project.text("apply", str(file), code=2)
    assert "say --yes" in project.text("apply", code=2)


def test_drift_of_the_lock(project: Project) -> None:
    lock = project.folder / "schemas.lock"
    held = lock.read_text()
    lines = [line for line in held.splitlines(keepends=True) if '"guid"' in line]
    raw = json.loads(held)
    raw["subjects"].pop(f"{project.table}-key")
    raw["subjects"][f"{project.table}-value"][0]["id"] += 10_000
    lock.write_text(json.dumps(raw))
    notes = "\n".join(project.steps()["write lock", "schemas.lock"]["notes"])
    assert f"{project.table}-key v1: registered, not in the lock" in notes
    assert f"{project.table}-value v1: id " in notes and "in the registry" in notes
    assert lines
    project.json("apply", "--yes")
    assert lock.read_text() == held
    with psycopg.connect(project.shop.dsn) as conn:
        assert conn.execute("SELECT count(*) FROM products").fetchone() == (9,)


def test_the_lock_is_checked_offline(project: Project, tmp_path: Path, postgres: PostgresForTests) -> None:
    project.toml()
    toml = project.folder / "instep.toml"
    toml.write_text(toml.read_text().replace(project.shop.settings.kafka.bootstrap, "127.0.0.1:1").replace(
        project.shop.settings.registry.url, "http://127.0.0.1:1"))  # fmt: skip
    found = project.json("schema", "check", "--lock")
    assert found["ok"] and {each["verdict"] for each in found["subjects"]} == {"same"}
    definitions = tmp_path / "schema.sql"
    tables = SCHEMA.split("INSERT")[0]

    def verdicts(sql: str, code: int = 0) -> dict[str, str]:
        definitions.write_text(sql)
        words = ["schema", "check", "--lock", "--schema", str(definitions), "--scratch", postgres.dsn]
        return {each["subject"]: each["verdict"] for each in project.json(*words, code=code)["subjects"]}

    value = f"{project.table}-value"
    assert set(verdicts(tables).values()) == {"same"}
    assert verdicts(tables.replace("name text", "name text, c int"))[value] == "differs"
    assert verdicts(tables + "CREATE TABLE n (id int PRIMARY KEY);")[f"{project.shop.name}.public.n-value"] == "new"
    assert verdicts(tables.replace("id int", "id text"), code=1)[value] == "refused"
    assert verdicts(tables.replace("name text", "title text"), code=1)[project.card] == "refused"
    (project.folder / "schemas.lock").unlink()
    assert "instep apply" in project.text("schema", "check", "--lock", code=2)
    assert "say --lock" in project.text("schema", "check", code=2)
