"""`instep capture audit` and `status`: what they find on a real capture, as a person and as a script see it."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures.postgres import PostgresForTests
from tests.streams.capture.harness import Shop

from instep.settings import KafkaSettings
from instep_connectors.kafka import OutRecord, Publisher, Record
from instep_ops.cli.app import run


def project(shop: Shop, folder: Path) -> str:
    own = shop.settings.sources[shop.name]
    (folder / "instep.toml").write_text(
        f'[sources.{shop.name}]\ndsn = "{shop.dsn}"\nslot = "{own.slot}"\nwal_budget = "{own.wal_budget}"\n'
        f'[kafka]\nbootstrap = "{shop.settings.kafka.bootstrap}"\n[registry]\nurl = "{shop.settings.registry.url}"\n'
        '[state]\ndsn = "host=none"\n'
    )
    return str(folder)


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    capsys.readouterr()
    code = run(["capture", *words])
    return code, capsys.readouterr().out


def reported(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    return dict(json.loads(told(capsys, *words, "--json")[1]))


def test_status_and_audit_beside_a_running_capture_and_after_it(
    postgres: PostgresForTests,
    kafka: KafkaSettings,
    registry: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shop = Shop(postgres.database(), kafka, registry)
    here = ("--project", project(shop, tmp_path))
    shop.execute("CREATE TABLE t (id int PRIMARY KEY, a text)", "INSERT INTO t VALUES (1), (2), (3)")
    before = reported(capsys, "status", *here)
    assert before["state"] == "nothing was ever captured" and before["slot"] is None
    with shop.capturing() as running:
        shop.execute("INSERT INTO t VALUES (4)", "DELETE FROM t WHERE id = 1")
        shop.await_captured(running)
        now = reported(capsys, "status", *here)
        assert now["state"] == "streaming"
        assert [each["step"] for each in now["steps"]] == ["store", "journal", "slot confirmed", "slot restart"]
        assert now["slot"]["level"] == "fine" and now["slot"]["limit_bytes"] > now["slot"]["retained_bytes"]
        rates = now["recent"]["tables"]["public.t"]
        assert (rates["read"], rates["create"], rates["delete"]) == (3, 1, 1) and rates["per_second"] > 0
        assert now["recent"]["batches"]["count"] >= 2 and now["recent"]["commit_to_topic_ms"]["most"] >= 0
        code, text = told(capsys, "status", *here)
        assert code == 0 and "public.t" in text and f"{shop.name}: streaming" in text
        code, text = told(capsys, "audit", *here)
        assert code == 0 and "The topics equal the store: 3 rows" in text
        assert reported(capsys, "audit", *here)["ok"] is True
    assert "not running (was streaming)" in told(capsys, "status", *here)[1]
    code, _ = told(capsys, "audit", *here, "--wait", "0")
    assert code == 4  # nobody captures: it never gets there
    shop.drop_slot()
    assert reported(capsys, "status", *here)["state"] == "the slot is gone"


def test_an_audit_that_finds_something_ends_with_one(
    postgres: PostgresForTests,
    kafka: KafkaSettings,
    registry: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shop = Shop(postgres.database(), kafka, registry)
    here = ("--project", project(shop, tmp_path))
    shop.execute("CREATE TABLE t (id int PRIMARY KEY, a text)", "INSERT INTO t VALUES (1, 'x')")
    with shop.capturing():
        (row,) = shop.records("public.t")
        asyncio.run(written_again(shop.settings.kafka, row))
        code, text = told(capsys, "audit", *here)
    assert code == 1
    assert "is in no journal entry" in text and "was written twice" in text and "problems in 1 rows" in text
    shop.drop_slot()


async def written_again(kafka: KafkaSettings, record: Record) -> None:
    """Write a record once more, as a faulty writer would."""
    async with aclosing(Publisher(kafka, "stranger")) as publisher:
        await publisher.start()
        again = OutRecord(record.topic, record.key, record.value, record.partition, record.headers)
        await publisher.publish([], lambda starts, ends: again)
