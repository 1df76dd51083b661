"""A source whose topics another writer fills as Debezium does, without a journal: the worker and the proof."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.fixtures.postgres import PostgresForTests
from tests.fixtures.registry import until
from tests.streams.flows.conftest import SCHEMA, SUPPLIED
from tests.streams.flows.harness import InThread, Shop, kill
from typer.testing import CliRunner

from instep.errors import ConfigError, StateError, VerifyFailed
from instep.settings import KafkaSettings, RegistrySettings, Settings
from instep_connectors.kafka import Record, topics
from instep_ops.cli.app import build
from instep_ops.verify import Report, verify
from instep_streams.capture import process as capture
from instep_streams.capture.connector import connector

CARD = """SELECT p.sku, p.name, p.price, s.name AS supplier, p.attrs, coalesce(sum(l.on_hand), 0) AS available
FROM products p LEFT JOIN suppliers s ON s.id = p.supplier_id LEFT JOIN stock_levels l ON l.product_id = p.id
GROUP BY p.id, s.name"""


class Written(Shop):
    """A shop captured by a Debezium configuration; the worker is told that there is no journal."""

    def __init__(self, folder: Path, dsn: str, state: str, kafka: KafkaSettings, registry: str) -> None:
        super().__init__(folder, dsn, state, kafka, registry)
        parts = psycopg.conninfo.conninfo_to_dict(dsn)
        names = {"host": "hostname", "port": "port", "user": "user", "password": "password", "dbname": "dbname"}
        config = {f"database.{names[name]}": str(value) for name, value in parts.items() if name in names}
        slot = self.settings.sources[self.name].slot
        config |= {"topic.prefix": self.name, "slot.name": slot, "plugin.name": "pgoutput"}
        config |= {"publication.name": f"p_{slot}", "provide.transaction.metadata": "true"}
        self._parsed = connector(config, kafka, RegistrySettings(url=registry))
        own = self.settings.sources[self.name].model_copy(update={"journal": False})
        self.settings = self.settings.model_copy(update={"sources": {self.name: own}})

    @contextmanager
    def capturing(self) -> Iterator[InThread]:
        async def run(settings: Settings, source: str, stop: asyncio.Event) -> None:
            await capture.run(self._parsed.settings, source, stop, self._parsed.compatible)

        running = InThread(run, self._parsed.settings, self._parsed.source)
        try:
            yield running
        finally:
            running.stop()
        running.check()

    def prove(self) -> Report:
        return asyncio.run(verify(self.settings, target=False))


@pytest.fixture
def written(tmp_path: Path, postgres: PostgresForTests, kafka: KafkaSettings, registry: str) -> Iterator[Written]:
    made = Written(tmp_path, postgres.database(), postgres.database(), kafka, registry)
    made.execute(SCHEMA)
    made.flow("card", "sku", CARD)
    made.flow("supplied", "id", SUPPLIED)
    made.execute("CREATE TABLE notes (id int PRIMARY KEY, product_id int, state status, note varchar(20))")
    made.flow("noted", "id", "SELECT p.id, n.note, n.state FROM products p LEFT JOIN notes n ON n.product_id = p.id")
    yield made
    made.close()


def moving(shop: Shop, stop: threading.Event) -> None:
    with psycopg.connect(shop.dsn, autocommit=True) as conn:
        number = 0
        while not stop.wait(0.002):
            number += 1
            conn.execute("UPDATE stock_levels SET on_hand = on_hand + 1 WHERE product_id = %s", (number % 50 + 1,))
            if number % 10 == 0:
                conn.execute("UPDATE products SET sku = 'moved' || %s WHERE id = %s", (number, number % 50 + 1))
            if number % 25 == 0:
                conn.execute("UPDATE suppliers SET name = 'named ' || %s WHERE id = %s", (number, number % 5 + 1))


def test_debezium_topics_are_right_at_rest_over_kills_and_proven(written: Written) -> None:
    with written.capturing() as writing, written.working() as working:
        report = written.prove()
        assert report.ok and [each.rows for each in report.proofs] == [50, 50, 5]
        first = [dict(record.headers)["instep.batch"] for record in written.records("card")]
        assert len(first) == 50, "nothing is shown before the first snapshot is complete"
        assert f"{written.name}.public.notes" not in topics(written.settings.kafka), "no row, no topic"
        for each in (writing, working):
            each.check()

    stop = threading.Event()
    load = threading.Thread(target=moving, args=(written, stop))
    load.start()
    try:
        with written.capturing():
            process = written.process("worker.committed=kill@8")
            try:
                until(lambda: process.poll() is not None, 90, "killed when committed")
            finally:
                kill(process)
            stop.set()
            load.join()
            written.execute("INSERT INTO notes VALUES (1, 1, 'open', 'first')")
            written.execute("DELETE FROM products WHERE id = 9", "UPDATE products SET id = 900 WHERE id = 10")
            with written.working():
                assert written.prove().ok
                assert _twice(written.records("card")) == []
                with psycopg.connect(written.state, autocommit=True) as conn:
                    _break(conn)
                written.execute("UPDATE suppliers SET name = 'Ångström' WHERE id = 3")
                assert not written.prove().ok, "a lost row must be found"
    finally:
        stop.set()
        load.join()


def _on_slot(written: Written, slot: str) -> Settings:
    own = written.settings.sources[written.name].model_copy(update={"slot": slot})
    return written.settings.model_copy(update={"sources": {written.name: own}})


def _twice(records: list[Record]) -> list[Any]:
    seen = [(record.key, dict(record.headers)["instep.batch"]) for record in records]
    return [each for each in set(seen) if seen.count(each) > 1]


def _break(conn: psycopg.Connection[Any]) -> None:
    conn.execute("DELETE FROM public.products WHERE supplier_id = 3")


def test_what_cannot_be_ordered_stops_the_worker(written: Written) -> None:
    with super(Written, written).capturing():  # Instep's own topics have several partitions
        with written.working():
            assert written.prove().ok
            with pytest.raises(VerifyFailed, match="'nobody'"):
                asyncio.run(verify(_on_slot(written, "nobody"), target=False))
        written.execute("TRUNCATE stock_levels")
        failure = written.fails()
    assert isinstance(failure, StateError) and "TRUNCATE" in str(failure) and "skipped.operations" in str(failure)


def test_there_is_nothing_to_capture(tmp_path: Path) -> None:
    text = '[sources.shop]\ndsn = "x"\njournal = false\n[kafka]\nbootstrap = "x"\n[registry]\nurl = "x"\n'
    text += '[state]\ndsn = "x"\n'
    (tmp_path / "instep.toml").write_text(text, encoding="utf-8")
    told = CliRunner().invoke(build(), ["capture", "shop", "--project", str(tmp_path)])
    assert told.exit_code == ConfigError.exit_code and "Debezium writes its topics" in told.output
