"""A recorded stream, killed at every frame boundary: no loss, no duplicate, no PostgreSQL."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from pathlib import Path

import pytest
from tests.fixtures.postgres import PostgresForTests
from tests.streams.capture.harness import Shop

from instep.errors import EnvironmentFault
from instep.settings import KafkaSettings
from instep_connectors.postgres.recording import Kind, Recorder, entries
from instep_schemas.decode import compile_decoder
from instep_schemas.records import unframe
from instep_streams.capture import process
from instep_streams.capture.audit import Audit, check_chain
from instep_streams.capture.batch import Record
from instep_streams.capture.replayed import Broker, Killed, Recording, replay

WORK = (
    "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, repeat('x', 3000))",
    "UPDATE t SET id = 20 WHERE id = 2; DELETE FROM t WHERE id = 1; INSERT INTO u VALUES (1, 1.5)",
    "ALTER TABLE t ADD c int; INSERT INTO t VALUES (4, 'd', 4); UPDATE t SET a = 'e'",
    "TRUNCATE u; INSERT INTO u SELECT i, i FROM generate_series(1, 12) i",
    "UPDATE t SET c = 5 WHERE id = 3",
)


@pytest.fixture(scope="module")
def recorded(
    postgres: PostgresForTests, kafka: KafkaSettings, registry: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A short stream, recorded over two runs of capture."""
    file = tmp_path_factory.mktemp("recorded") / "stream.frames"
    shop = Shop(postgres.database(), kafka, registry)
    shop.execute("CREATE TABLE t (id int PRIMARY KEY, a text)", "CREATE TABLE u (id int PRIMARY KEY, n numeric)")
    with shop.capturing():
        pass
    for part in (WORK[:2], WORK[2:]):
        capture(shop, file, part)
    shop.drop_slot()
    return file


def capture(shop: Shop, file: Path, statements: tuple[str, ...]) -> None:
    """Capture the statements, recording."""
    stop = asyncio.Event()
    loop = asyncio.new_event_loop()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            loop.run_until_complete(process.run(shop.settings, shop.name, stop, None, file))
            loop.run_until_complete(loop.shutdown_default_executor())
        except BaseException as exc:
            failed.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        shop.execute(*statements)
        shop.await_captured()
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
    assert not failed, failed
    loop.close()


def contents(broker: Broker) -> dict[tuple[str, int], list[object]]:
    """What a reader sees, without the times at which it was written."""
    return {at: [_seen(broker, record) for record in records] for at, records in broker.topics.items()}


def _seen(broker: Broker, record: Record) -> object:
    if record.value is None:
        return record.key, record.headers, None
    schema_id, body = unframe(record.value)
    envelope = compile_decoder(broker.schemas[schema_id - 1])(body)
    return record.key, record.headers, envelope.op, envelope.before, envelope.after


def counted(broker: Broker) -> Counter[tuple[str, str]]:
    sums: Counter[tuple[str, str]] = Counter()
    for entry in broker.journal:
        for table, counts in entry.counts.items():
            sums.update({(table, op): getattr(counts, op) for op in ("create", "update", "delete", "truncate")})
    return sums


@pytest.mark.parametrize("commit_in_flight", [True, False])
def test_a_kill_at_every_frame_loses_nothing_and_doubles_nothing(recorded: Path, commit_in_flight: bool) -> None:
    recording = Recording.read(recorded)
    whole = Broker()
    frames = replay(recording, whole, batch_changes=4)
    expected, counts = contents(whole), counted(whole)
    # two deletes have their tombstones, and a TRUNCATE is in each of three partitions
    assert frames > 40 and sum(map(len, expected.values())) == sum(counts.values()) + 2 + 2
    for kill_at in range(frames + 1):
        broker = Broker()
        with pytest.raises(Killed):
            replay(recording, broker, kill_at=kill_at, commit_in_flight=commit_in_flight, batch_changes=4)
        for again in (1, 3):  # the next ones die early too
            with pytest.raises(Killed):
                replay(recording, broker, kill_at=again, commit_in_flight=commit_in_flight, batch_changes=4)
        replay(recording, broker, batch_changes=4)
        assert contents(broker) == expected, kill_at
        assert counted(broker) == counts, kill_at
        chain = Audit()
        check_chain(broker.journal, chain)
        assert chain.ok, (kill_at, chain.problems)


def test_the_frames_are_the_stores_own_bit_for_bit(recorded: Path) -> None:
    found = list(entries(recorded))
    kinds = Counter(entry.kind for entry in found)
    assert kinds[Kind.START] == 2 and kinds[Kind.CONFIRMED] >= 2 and kinds[Kind.RELATION] >= 3
    written = b"".join(entry.message for entry in found if entry.kind is Kind.FRAME)
    played = b"".join(frame.message for frame in Recording.read(recorded).frames(0))
    assert written.count(b"x" * 3000) == 1 and b"x" * 3000 in played
    assert {e.message for e in found if e.kind is Kind.FRAME} >= {f.message for f in Recording.read(recorded).frames(0)}
    at = [entry.at_us for entry in found]
    assert at == sorted(at)
    confirmed = [entry.lsn for entry in found if entry.kind is Kind.CONFIRMED]
    assert confirmed == sorted(confirmed)


def test_transactions_that_came_in_parts_are_recorded_whole_and_played_back(
    recorded: Path, postgres: PostgresForTests, kafka: KafkaSettings, registry: str, tmp_path: Path
) -> None:
    shop = Shop(postgres.database(), kafka, registry, stream_large=True)
    database = shop.value("SELECT current_database()")
    shop.execute(
        f"ALTER DATABASE {database} SET debug_logical_replication_streaming = 'immediate'",
        "CREATE TABLE t (id int PRIMARY KEY, a text)", "CREATE TABLE u (id int PRIMARY KEY, n numeric)",
    )  # fmt: skip
    with shop.capturing():
        pass
    capture(shop, tmp_path / "parts.frames", WORK)
    parts = shop.value(f"SELECT stream_count FROM pg_stat_replication_slots WHERE slot_name = '{shop.slot}'")
    shop.drop_slot()
    played, plain = Broker(), Broker()
    replay(Recording.read(tmp_path / "parts.frames"), played)
    replay(Recording.read(recorded), plain)
    assert parts > len(WORK)
    assert counted(played) == counted(plain)
    first = {entry.message[:1] for entry in entries(tmp_path / "parts.frames") if entry.kind is Kind.FRAME}
    assert first <= {b"B", b"C", b"I", b"U", b"D", b"R", b"T", b"M"}


def test_a_recording_that_was_cut_off_goes_on_behind_its_last_whole_entry(tmp_path: Path) -> None:
    file = tmp_path / "cut.frames"
    recorder = Recorder(file)
    recorder.add(Kind.FRAME, bytes(8) + b"first")
    recorder.add(Kind.FRAME, bytes(8) + b"second")
    recorder.close()
    assert file.stat().st_mode & 0o077 == 0
    file.write_bytes(file.read_bytes()[:-3])
    assert [entry.message for entry in entries(file)] == [b"first"]
    recorder = Recorder(file)
    recorder.add(Kind.FRAME, bytes(8) + b"third")
    recorder.close()
    assert [entry.message for entry in entries(file)] == [b"first", b"third"]


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "letters.txt"
    file.write_text("dear all, " * 10)
    for work in (Recorder, lambda path: list(entries(path))):
        with pytest.raises(EnvironmentFault, match="is not a recording"):
            work(file)
    assert file.read_text().startswith("dear all")
    with pytest.raises(EnvironmentFault, match="cannot be"):
        Recorder(tmp_path / "no" / "folder")
