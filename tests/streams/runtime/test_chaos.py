"""The audit: members killed, ended, joining; agents that raise; a broker that dies. Nothing may be lost.

The judge is one append-only file: members write what they finished, the test writes the commits it sees.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import confluent_kafka as ck
import pytest
from tests.streams.runtime import chaos_worker
from tests.streams.runtime.conftest import fill, running
from tests.streams.runtime.waiting import until

from instep.settings import KafkaSettings
from instep_connectors.kafka import TopicSpec, committed, ensure_topics, read_topic
from instep_connectors.kafka.client import producer_config
from instep_ops.embedded import Kafka
from instep_streams.runtime import Batch, flow_agent, flow_app

PARTITIONS = 4
RECORDS = 12_000


class Audit:
    """One run's topic, group, members and notes."""

    def __init__(self, kafka: KafkaSettings, tag: str, file: Path) -> None:
        self.kafka, self.topic, self.group, self.file = kafka, f"in-{tag}", f"g-{tag}", file
        self.members: list[subprocess.Popen[bytes]] = []
        self.told = file.with_suffix(".err")
        self._numbers = [0] * PARTITIONS
        file.touch()
        ensure_topics(kafka, [TopicSpec(self.topic, PARTITIONS)])

    def join(self) -> None:
        command = [sys.executable, chaos_worker.__file__, self.kafka.bootstrap, self.group, self.topic, str(self.file)]
        # a member that is asked to leave while it still starts hears of it as soon as it can: it inherits the mask
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        try:
            with self.told.open("ab") as told:
                self.members.append(subprocess.Popen(command, stderr=told))
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])

    def end(self, member: subprocess.Popen[bytes], how: signal.Signals) -> None:
        """Signal a member and wait for it."""
        self.members.remove(member)
        member.send_signal(how)
        code = member.wait(60)
        assert code == 0 or how is signal.SIGKILL, self.told.read_text()

    def feed(self, chance: random.Random, count: int) -> None:
        """So many more numbers, or some above, in transactions over all partitions; one in seven is aborted."""
        producer = ck.Producer(producer_config(self.kafka, "feed", transactional_id=self.topic))
        producer.init_transactions(30)
        numbers = self._numbers
        end = sum(numbers) + count
        while sum(numbers) < end:
            aborted = chance.random() < 0.15
            producer.begin_transaction()
            for _ in range(chance.randint(20, 200)):
                number = chance.randrange(PARTITIONS)
                producer.produce(self.topic, b"ABORTED" if aborted else b"%d" % numbers[number], partition=number)
                numbers[number] += not aborted
            producer.flush(30)
            (producer.abort_transaction if aborted else producer.commit_transaction)(30)

    def note_commits(self) -> dict[int, int]:
        """Write down what the group has committed now."""
        found = {number: offset for (_, number), offset in committed(self.kafka, self.group, [self.topic]).items()}
        with self.file.open("a") as notes:
            notes.writelines(f"commit {number} {offset}\n" for number, offset in found.items())
        return found

    def is_ahead(self) -> bool:
        """Whether in every partition more is finished than committed."""
        finished = [0] * PARTITIONS
        for line in self.file.read_text().splitlines():
            kind, number, rest = line.split()
            if kind == "done":
                newest = int(rest.rpartition(",")[2].partition(":")[0])
                finished[int(number)] = max(finished[int(number)], newest + 1)
        known = committed(self.kafka, self.group, [self.topic])
        return all(known.get((self.topic, number), 0) < end for number, end in enumerate(finished))

    def judge(self) -> Counter[str]:
        """Count what must not be: lost, disorder, committed above processed, aborted records seen."""
        log: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for record in read_topic(self.kafka, self.topic):
            log[record.partition].append((record.offset, int(record.value or b"")))
        assert sum(map(len, log.values())) >= RECORDS
        bad: Counter[str] = Counter()
        done: dict[int, set[int]] = defaultdict(set)
        next_number: dict[int, int] = defaultdict(int)
        for line in self.file.read_text().splitlines():
            kind, partition, rest = line.split()
            number = int(partition)
            if kind == "commit":
                bad["over"] += sum(1 for offset, _ in log[number] if offset < int(rest) and offset not in done[number])
                continue
            for pair in rest.split(","):
                offset, _, text = pair.partition(":")
                if text == "ABORTED":
                    bad["aborted"] += 1
                    continue
                bad["jumps"] += int(text) > next_number[number]
                bad["again"] += int(offset) in done[number]
                next_number[number] = max(next_number[number], int(text) + 1)
                done[number].add(int(offset))
        bad["lost"] = sum(offset not in done[number] for number, found in log.items() for offset, _ in found)
        return bad


async def test_nothing_is_lost_and_order_holds_while_members_die_leave_and_join(
    rough_kafka: Kafka, unique: Callable[[str], str], tmp_path: Path
) -> None:
    audit = await asyncio.to_thread(Audit, rough_kafka.settings, unique("chaos"), tmp_path / "notes")
    try:
        await _chaos(audit)
    finally:
        for member in list(audit.members):
            await asyncio.to_thread(audit.end, member, signal.SIGKILL)
    bad = audit.judge()
    again = bad.pop("again")
    assert not +bad, f"{bad}, {again} delivered again"
    assert again, "no kill hit work that was not committed: the audit proves nothing"


async def _chaos(audit: Audit) -> None:
    notes = audit.file
    audit.join()
    audit.join()
    chance = random.Random(20)
    for act in ("kill", "join", "term", "kill", "term"):
        size = notes.stat().st_size
        await asyncio.to_thread(audit.feed, chance, RECORDS // 6)
        await until(lambda size=size: notes.stat().st_size > size + 2_000, 60)  # type: ignore[misc]
        await asyncio.to_thread(audit.note_commits)
        if act == "kill":
            await _stop_with_work_to_lose(audit, chance)
        if act != "join":
            how = signal.SIGKILL if act == "kill" else signal.SIGTERM
            await asyncio.to_thread(audit.end, audit.members[0], how)
        audit.join()
    await asyncio.to_thread(audit.feed, chance, RECORDS // 6)
    ends = {n: 0 for n in range(PARTITIONS)}
    for record in await asyncio.to_thread(list, read_topic(audit.kafka, audit.topic)):
        ends[record.partition] = record.offset + 1
    async with asyncio.timeout(90):
        done: dict[int, int] = {}
        while any(done.get(number, 0) < end for number, end in ends.items()):
            done = await asyncio.to_thread(audit.note_commits)
    for member in list(audit.members):
        await asyncio.to_thread(audit.end, member, signal.SIGTERM)
    await asyncio.to_thread(audit.note_commits)


async def _stop_with_work_to_lose(audit: Audit, chance: random.Random) -> None:
    """The next member to go stands still, its commits behind its work, whichever partitions it has."""
    async with asyncio.timeout(60):
        while True:
            await asyncio.to_thread(audit.feed, chance, RECORDS // 40)
            audit.members[0].send_signal(signal.SIGSTOP)
            if await asyncio.to_thread(audit.is_ahead):
                return
            audit.members[0].send_signal(signal.SIGCONT)


@pytest.mark.parametrize("how", ["kill", "restart"])
async def test_agents_go_on_after_the_broker_was_away(
    rough_kafka: Kafka, unique: Callable[[str], str], how: str
) -> None:
    kafka, topic, group = rough_kafka.settings, unique("in"), unique("g")
    await fill(kafka, topic, 2, 50)
    seen: dict[int, list[int]] = defaultdict(list)
    app = flow_app(group, kafka, batch_size=10, commit_s=0.2)

    @flow_agent(app, [topic])
    async def work(batch: Batch) -> None:
        await asyncio.sleep(0.005)
        seen[batch.tp[1]] += [int(record.value or b"") for record in batch.records]

    async with running(app):
        await until(lambda: seen[0] and seen[1])
        if how == "kill":
            await asyncio.to_thread(rough_kafka.kill)
        else:
            await asyncio.to_thread(rough_kafka.stop)
        await asyncio.to_thread(rough_kafka.start)
        await fill(kafka, topic, 2, 50, first=50)
        await until(lambda: len({*seen[0]}) == len({*seen[1]}) == 100, 60)
    for numbers in seen.values():  # in order; what was not committed may come again from there on
        assert all(b <= a + 1 for a, b in itertools.pairwise(numbers))


async def test_a_process_can_start_and_stop_while_there_is_no_broker() -> None:
    app = flow_app("g", KafkaSettings(bootstrap="127.0.0.1:1"))

    @flow_agent(app, ["t"])
    async def work(batch: Batch) -> None:
        raise AssertionError

    async with asyncio.timeout(60), running(app):
        await until(lambda: app.started)


async def test_a_process_can_stop_after_the_broker_has_gone(tmp_path: Path, unique: Callable[[str], str]) -> None:
    server = Kafka(tmp_path / "kafka")
    await asyncio.to_thread(server.ensure)
    await asyncio.to_thread(server.start)
    kafka, topic = server.settings, unique("in")
    await fill(kafka, topic, 1, 10)
    seen: list[int] = []
    app = flow_app(unique("g"), kafka)

    @flow_agent(app, [topic])
    async def work(batch: Batch) -> None:
        seen.append(len(batch))

    async with running(app):
        await until(lambda: seen)
        await asyncio.to_thread(server.kill)
        began = asyncio.get_running_loop().time()
    # librdkafka itself takes 30 s to leave a group without a broker
    assert asyncio.get_running_loop().time() - began < 25
