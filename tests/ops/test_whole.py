"""The whole way on real parts: store, Kafka, registry, capture, worker, delivery, a real CRM; then the proof."""

import asyncio
import json
import secrets
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.fixtures.postgres import PostgresForTests

from instep.settings import KafkaSettings, Settings, TargetSettings
from instep_ops.assemble import programs
from instep_ops.cli.options import open_running
from instep_ops.embedded import Tryton
from instep_ops.embedded.ports import free_port
from instep_ops.supervisor import Program, Supervisor
from instep_ops.verify import verify

pytestmark = pytest.mark.slow

TOML = """
name = "{name}"
data = "data"

[sources.{name}]
dsn = "env:WHOLE_STORE"

[kafka]
bootstrap = "{kafka}"

[registry]
url = "http://127.0.0.1:{port}"
listen = "127.0.0.1:{port}"

[state]
dsn = "env:WHOLE_STATE"

[targets.crm]
type = "tryton"
url = "{url}"
key = "env:WHOLE_KEY"
"""

FLOW = """/* instep
target = "crm"   object = "product.product"   key = "sku"   delete = "deactivate"
fields = ["name", "list_price"]
*/
SELECT p.sku, p.name, round(p.price, 4) AS list_price, coalesce(sum(l.on_hand), 0) AS available
FROM products p LEFT JOIN stock_levels l ON l.product_id = p.id
GROUP BY p.id
"""

TABLES = """
CREATE TABLE products (id int PRIMARY KEY, sku text NOT NULL UNIQUE, name text NOT NULL, price numeric(12,2) NOT NULL);
CREATE TABLE stock_levels (product_id int REFERENCES products, site int, on_hand int, PRIMARY KEY (product_id, site));
"""


@dataclass
class Whole:
    """A project that runs."""

    folder: Path
    settings: Settings
    store: str
    prefix: str
    supervisor: Supervisor

    @property
    def flow(self) -> str:
        return f"{self.prefix}_card"

    def change(self, *statements: str) -> None:
        with psycopg.connect(self.store) as conn:
            for statement in statements:
                conn.execute(statement.encode())


@pytest.fixture(scope="module", autouse=True)
def fresh_crm(tryton_server: Tryton) -> None:
    """A CRM that does not still work on what killed and refused callers of other tests have asked it."""
    tryton_server.stop()
    tryton_server.start()


@pytest.fixture
def folder(
    tmp_path: Path,
    postgres: PostgresForTests,
    kafka: KafkaSettings,
    tryton: TargetSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Path]:
    name = f"w{secrets.token_hex(3)}"
    monkeypatch.setenv("WHOLE_STORE", postgres.database())
    monkeypatch.setenv("WHOLE_STATE", postgres.database())
    monkeypatch.setenv("WHOLE_KEY", tryton.key.reveal())
    toml = TOML.format(name=name, kafka=kafka.bootstrap, port=free_port(), url=tryton.url)
    (tmp_path / "instep.toml").write_text(toml)
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / f"{name}_card.sql").write_text(FLOW)
    yield tmp_path


@pytest.fixture
async def whole(folder: Path) -> AsyncIterator[Whole]:
    settings = open_running(folder)
    (name,) = settings.sources
    store = settings.sources[name].dsn.reveal()
    with psycopg.connect(store) as conn:
        conn.execute(TABLES)
        for n in range(1, 31):
            conn.execute("INSERT INTO products VALUES (%s, %s, %s, %s)", (n, f"{name}-{n}", f"Product {n}", n))
            conn.execute("INSERT INTO stock_levels VALUES (%s, 1, %s)", (n, n))
    command = (sys.executable, "-m", "instep_ops.cli", "registry", "--project", str(folder))
    supervisor = Supervisor([Program("registry", command), *programs(settings, folder)], settings.data_dir)
    stop = asyncio.Event()
    running = asyncio.create_task(supervisor.run(stop))
    try:
        yield Whole(folder, settings, store, name, supervisor)
    finally:
        stop.set()
        await running


async def prove(whole: Whole, **options: Any) -> Any:
    """Verify while a process that ended for good ends the test."""
    return await asyncio.wait_for(verify(whole.settings, **options), 120)


async def test_the_crm_follows_the_store_and_it_is_proven(whole: Whole) -> None:
    report = await prove(whole)
    assert report.ok, report.to_dict()
    (proof,) = report.proofs
    assert (proof.rows, proof.topic_compared, proof.crm_compared) == (30, 30, 30)
    assert report.counts[whole.prefix]["captured"] == 60

    whole.change(
        "UPDATE products SET name = 'renamed', price = 9.99 WHERE id = 3",
        "UPDATE stock_levels SET on_hand = 0 WHERE product_id = 4",
        "DELETE FROM stock_levels WHERE product_id = 5",
        "DELETE FROM products WHERE id = 5",
    )
    report = await prove(whole)
    assert report.ok, report.to_dict()
    assert report.proofs[0].rows == 29


async def test_a_damaged_record_is_found_and_repaired(whole: Whole) -> None:
    assert (await prove(whole)).ok
    await damage(whole, f"{whole.prefix}-7")
    report = await prove(whole)
    (found,) = report.differences
    assert (found.flow, found.key, found.field, found.crm) == (whole.flow, (f"{whole.prefix}-7",), "name", "damaged")
    assert found.store == found.topic == "Product 7"
    assert not report.ok and report.undecided == []

    report = await prove(whole, repair=True)
    assert report.ok and report.repaired == 1, report.to_dict()


async def damage(whole: Whole, code: str) -> None:
    """Write into the CRM behind Instep's back, as a person would."""
    from instep.change import Position
    from instep.flowfile import load_all
    from instep.protocols import Document, Written
    from instep_streams.delivery.sinks import open_sink

    flow = load_all(whole.settings.flows_dir)[whole.flow].model_copy(update={"fields": ("name",)})
    sink = open_sink(whole.settings, flow)
    try:
        document = Document(flow.name, (code,), {"sku": code, "name": "damaged"}, 1, Position(1, 1))
        (outcome,) = await sink.write([document])
    finally:
        await sink.aclose()
    assert isinstance(outcome, Written)


async def test_verify_while_everything_changes_and_is_killed(whole: Whole) -> None:
    """No false alarm under load, whatever is killed; at rest everything is decided."""
    stop = asyncio.Event()

    async def life() -> int:
        n = 0
        async with await psycopg.AsyncConnection.connect(whole.store) as conn:
            while not stop.is_set():
                n += 1
                await conn.execute("UPDATE stock_levels SET on_hand = %s WHERE product_id = %s", (n, n % 30 + 1))
                await conn.execute("UPDATE products SET price = %s WHERE id = %s", (n % 7 + 1, n * 7 % 30 + 1))
                await conn.commit()
                await asyncio.sleep(0.01)
        return n

    living = asyncio.create_task(life())
    try:
        report = await prove(whole, target=False)
        assert report.differences == []
        for name, pid in whole.supervisor.pids().items():
            if name.startswith(("capture", "worker")):
                import os
                import signal

                os.kill(pid, signal.SIGKILL)
        report = await prove(whole, target=False)
        assert report.differences == []
    finally:
        stop.set()
    assert await living > 20
    report = await prove(whole)
    assert report.ok, report.to_dict()


async def test_the_commands_beside_a_running_project(whole: Whole) -> None:
    assert (await prove(whole)).ok

    async def instep(*words: str) -> tuple[int, Any]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "instep_ops.cli", *words, "--project", str(whole.folder), "--json",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        assert b"Traceback" not in err, err.decode()
        assert process.returncode is not None
        return process.returncode, json.loads(out)

    code, status = await instep("status")
    assert (code, status["ok"]) == (0, True)
    assert status["sources"][whole.prefix]["capture"]["slot"]["active_pid"]
    assert status["targets"]["crm"]["outcomes"]["written"] == 30

    code, report = await instep("verify", whole.flow)
    assert (code, report["differences"], report["rows_compared"]) == (0, 0, 60)

    code, checked = await instep("doctor")
    assert (code, checked["ok"]) == (0, True), checked
    assert {"project", "kafka", "registry", "state", "target crm", f"flow {whole.flow}"} <= {
        check["name"] for check in checked["checks"]
    }

    code, letters = await instep("deadletters", "ls")
    assert (code, letters) == (0, [])

    code, documents = await instep("flow", "run", whole.flow, "--limit", "3")
    assert code == 0 and len(documents) == 3 and documents[0]["name"].startswith("Product")

    code, summary = await instep("replay", whole.flow, "--since", "1h", "--dry-run")
    assert code == 0 and summary["keys"] == 30
