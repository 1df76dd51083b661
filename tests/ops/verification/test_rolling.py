"""The rolling proof on real parts: what it compares, what it finds, how it ends."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import psycopg
import pytest
from tests.fixtures.postgres import PostgresForTests
from tests.fixtures.registry import until
from tests.streams.flows.conftest import SCHEMA
from tests.streams.flows.harness import InThread, Shop

from instep.errors import ConfigError
from instep.settings import KafkaSettings
from instep.telemetry import METRICS
from instep_ops.verification import rolling, sample
from instep_ops.verification.rolling import Round, roll

SELECT = """SELECT p.sku, p.name, s.name AS supplier, coalesce(sum(l.on_hand), 0) AS available FROM products p
JOIN suppliers s ON s.id = p.supplier_id LEFT JOIN stock_levels l ON l.product_id = p.id GROUP BY p.id, s.name"""

Running = tuple[InThread, InThread]


@pytest.fixture(scope="module")
def shop(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresForTests, kafka: KafkaSettings, registry: str
) -> Iterator[Shop]:
    made = Shop(tmp_path_factory.mktemp("rolling"), postgres.database(), postgres.database(), kafka, registry)
    made.execute(SCHEMA)
    made.flow("card", "sku", SELECT)
    yield made
    made.close()


@pytest.fixture(scope="module")
def running(shop: Shop) -> Iterator[Running]:
    with shop.capturing() as capture, shop.working() as worker:
        shop.settle(capture, worker)
        yield capture, worker


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rolling, "ROUND_S", 0.05)
    monkeypatch.setattr(rolling, "LOAD", 1.0)


def compare(shop: Shop, enough: Callable[[list[Round]], bool], complaints: list[str] | None = None) -> list[Round]:
    """Roll until the rounds are enough."""
    rounds: list[Round] = []

    async def main() -> bool:
        stop = asyncio.Event()

        def tell(each: Round) -> None:
            rounds.append(each)
            if enough(rounds):
                stop.set()

        told = complaints if complaints is not None else []
        return await asyncio.wait_for(roll(shop.settings, None, stop, tell, 400, told.append), 120)

    clean = asyncio.run(main())
    assert clean == (not any(each.differences for each in rounds))
    return rounds


def metric(name: str, shop: Shop) -> float:
    return METRICS.get_sample_value(name, {"flow": shop.named("card")}) or 0.0


def found(rounds: list[Round]) -> set[tuple[str, ...]]:
    return {each.key for one in rounds for each in one.differences}


def test_a_wrong_and_a_missing_document_are_found_and_what_is_mended_is_forgotten(shop: Shop, running: Running) -> None:
    rounds = compare(shop, lambda rounds: sum(each.keys for each in rounds) >= 50)
    assert found(rounds) == set() and rounds[0].keys > 0, "the first round has keys that the store drew"
    assert metric("instep_verify_keys_total", shop) == sum(each.keys for each in rounds)

    with psycopg.connect(shop.state, autocommit=True) as conn:  # behind the worker's back
        conn.execute("UPDATE suppliers SET name = 'damaged' WHERE id = 3")
        conn.execute("DELETE FROM products WHERE id = 9")
    shop.execute("UPDATE products SET name = 'new' WHERE id = 7")
    shop.execute("UPDATE stock_levels SET on_hand = 1 WHERE product_id = 9")
    shop.settle(*running)
    rounds = compare(shop, lambda rounds: rounds[-1].differing == 2)
    assert found(rounds) == {("sku7",), ("sku9",)}
    assert metric("instep_verify_differences_total", shop) == 2 == metric("instep_verify_differing_keys", shop)
    told = json.loads(json.dumps(rounds[-1].to_dict(), default=str))
    assert told["flow"] == shop.named("card") and told["differing"] == 2
    assert "sku7 supplier: store supplier 3, topic damaged" in "".join(line for each in rounds for line in each.lines())

    shop.execute("UPDATE suppliers SET name = 'mended' WHERE id = 3", "UPDATE products SET name = 'back' WHERE id = 9")
    shop.settle(*running)
    rounds = compare(shop, lambda rounds: sum(each.keys for each in rounds) >= 100)
    assert found(rounds) == set()


def test_changes_meanwhile_are_no_differences(shop: Shop, running: Running) -> None:
    def moved(rounds: list[Round]) -> bool:
        shop.execute(f"UPDATE products SET name = 'n{len(rounds)}' WHERE id < 30")
        shop.execute("UPDATE suppliers SET name = name || '.'")
        return len(rounds) == 8

    rounds = compare(shop, moved)
    assert found(rounds) == set() and sum(each.keys for each in rounds) > 50


def test_a_round_without_an_end_is_told_and_the_next_one_tried(
    shop: Shop, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = iter([ConnectionError("the store is gone")])
    real = sample.sampled

    def sampled(*args: object) -> object:
        for exc in failing:
            raise exc
        return real(*args)  # type: ignore[arg-type]  # as it was called

    monkeypatch.setattr(rolling, "sampled", sampled)
    complaints: list[str] = []
    rounds = compare(shop, lambda rounds: len(rounds) == 1, complaints)
    assert found(rounds) == set() and "the store is gone" in complaints[0]


def test_the_command_ends_at_sigterm(shop: Shop, running: Running) -> None:
    own, settings = shop.settings.sources[shop.name], shop.settings
    (shop.folder / "instep.toml").write_text(
        f'''name = "{shop.name}"
[sources.{shop.name}]
dsn = "{shop.dsn}"
slot = "{own.slot}"
[kafka]
bootstrap = "{settings.kafka.bootstrap}"
[registry]
url = "{settings.registry.url}"
[state]
dsn = "{shop.state}"
'''
    )
    command = [sys.executable, "-m", "instep_ops.cli", "verify", "--rolling", "--json", "-p", str(shop.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = json.loads(process.stdout.readline())
            assert (line["flow"], line["differences"], line["keys"] > 0) == (shop.named("card"), [], True)
            process.send_signal(signal.SIGTERM)
            until(lambda: process.poll() is not None, 60, "it ends")
        finally:
            process.kill()
        assert process.returncode == 0, process.stderr.read() if process.stderr else ""


def test_flows_of_joined_stores_are_refused(shop: Shop) -> None:
    other = shop.settings.sources[shop.name].model_copy(update={"joined_to": shop.name, "slot": "other"})
    settings = shop.settings.model_copy(update={"sources": {**shop.settings.sources, "books": other}})
    with pytest.raises(ConfigError, match="without --rolling"):
        asyncio.run(roll(settings, None, asyncio.Event(), lambda each: None, 1, lambda text: None))
