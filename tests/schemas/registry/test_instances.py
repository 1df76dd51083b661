"""Several instances, kills, restarts, and topics that are not fit to hold schemas."""

from __future__ import annotations

import json
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import httpx
import pytest
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # not declared as exported
from tests.fixtures.registry import RegistryProcess, health, running_registry, settled, until

from instep.errors import EnvironmentFault, InstepError, RegistryError
from instep.settings import KafkaSettings
from instep_ops.embedded import Kafka
from instep_ops.embedded.ports import free_port
from instep_schemas.client import RegistryClient
from instep_schemas.registry.log import Writer

_topics = count()


@pytest.fixture
def topic() -> str:
    return f"_schemas_{next(_topics)}_{time.time_ns()}"


def schema(name: str) -> str:
    return f'{{"type":"record","name":"{name}","fields":[{{"name":"id","type":"long"}}]}}'


def test_a_restart_keeps_everything(kafka: KafkaSettings, topic: str) -> None:
    paths = ("/schemas?deleted=true", "/config/kept", "/mode/kept", "/contexts", "/subjects?deleted=true")
    with running_registry(kafka, topic) as url, httpx.Client(base_url=url) as http:
        for number in range(20):
            http.post(f"/subjects/s{number}/versions", json={"schema": schema(f"r{number}")})
        http.delete("/subjects/s3")
        http.delete("/subjects/s4")
        http.delete("/subjects/s4?permanent=true")
        http.put("/config/kept", json={"compatibility": "FULL"})
        http.put("/mode/kept", json={"mode": "READONLY"})
        http.post("/subjects/:.other:x/versions", json={"schema": schema("other")})
        before = [http.get(path).json() for path in paths]
    with running_registry(kafka, topic) as url, httpx.Client(base_url=url) as http:
        assert [http.get(path).json() for path in paths] == before
        assert http.post("/subjects/new/versions", json={"schema": schema("new")}).json()["id"] == 21


def test_a_killed_single_instance_is_back_at_once(kafka: KafkaSettings, topic: str) -> None:
    instance = RegistryProcess(kafka, topic)
    instance.start()
    client = RegistryClient(instance.url)
    try:
        until(lambda: settled(instance.url), 60)
        first = client.register("a", schema("a"))
        instance.kill()
        with pytest.raises(ConnectionError):
            client.latest("a")
        instance.start()
        until(lambda: settled(instance.url), 60)
        assert client.latest("a") == (first, 1, schema("a"))
        assert client.register("b", schema("b")) == first + 1
    finally:
        client.close()
        assert instance.stop() == 0


@pytest.mark.parametrize("point", ["registry.write", "registry.written"])
def test_the_leader_dies_between_decision_and_answer(kafka: KafkaSettings, topic: str, point: str) -> None:
    """The second write of the first leader never gets an answer; asked again, the next leader gives it."""
    leader, follower = RegistryProcess(kafka, topic), RegistryProcess(kafka, topic)
    leader.start(f"{point}=kill@3")
    client = RegistryClient(f"{leader.url},{follower.url}")
    try:
        until(lambda: settled(leader.url), 60)
        follower.start()
        until(lambda: settled(follower.url), 60)
        assert client.register("a", schema("a")) == 1
        assert client.register("b", schema("b")) == 2
        assert leader.ended is not None
        assert client.register("c", schema("c")) == 3
        latest = client.latest("b")
        assert latest is not None and latest[:2] == (2, 1)
    finally:
        client.close()
        follower.stop()


def test_followers_serve_and_forward(kafka: KafkaSettings, topic: str) -> None:
    with running_registry(kafka, topic) as leader, running_registry(kafka, topic) as follower:
        until(lambda: health(follower).get("leader") == leader, 60)
        assert health(leader)["leading"] and not health(follower)["leading"]
        client = RegistryClient(follower)
        for number in range(30):
            schema_id = client.register(f"s{number}", schema(f"r{number}"))
            latest = client.latest(f"s{number}")  # its own write, at the follower
            assert latest is not None and latest[0] == schema_id
        with pytest.raises(RegistryError, match="cannot read the data of v1"):
            client.register("s1", '{"type":"string"}')
        client.close()


@pytest.mark.slow
def test_kills_lose_and_double_nothing(kafka: KafkaSettings, topic: str) -> None:
    """Three instances, one killed and restarted again and again, while eight clients register."""
    instances = [RegistryProcess(kafka, topic) for _ in range(3)]
    for instance in instances:
        instance.start()
    urls = ",".join(instance.url for instance in instances)
    until(lambda: any(settled(instance.url) for instance in instances), 60)
    acknowledged: dict[tuple[str, str], int] = {}
    over = threading.Event()
    chance = random.Random(7)

    def register(worker: int) -> None:
        client = RegistryClient(urls, timeout=5)
        for number in range(1_000_000):
            if over.is_set():
                break
            text = f'{{"type":"record","name":"w{worker}","fields":[{{"name":"f{number}","type":"int","default":0}}]}}'
            subject = f"subject{number % 5}" if worker % 2 else f"own{worker}"
            text = text.replace(f'"w{worker}"', '"row"') if worker % 2 else text
            try:
                acknowledged[subject, text] = client.register(subject, text)
            except (ConnectionError, TimeoutError):
                time.sleep(0.05)
        client.close()

    with ThreadPoolExecutor(8) as workers:
        done = [workers.submit(register, worker) for worker in range(8)]
        try:
            for _ in range(4):
                target = len(acknowledged) + 40
                until(lambda target=target: len(acknowledged) >= target, 60, "progress")  # type: ignore[misc]
                victim = chance.choice(instances)
                victim.kill()
                victim.start()
            target = len(acknowledged) + 40
            until(lambda: len(acknowledged) >= target, 60, "progress")
        finally:
            over.set()
        for each in done:
            each.result()
    until(lambda: all(settled(instance.url) for instance in instances), 60)
    try:
        listings = [httpx.get(f"{instance.url}/schemas", timeout=30).json() for instance in instances]
        assert listings[0] == listings[1] == listings[2]
        kept = {(each["subject"], each["schema"]): each["id"] for each in listings[0]}
        assert acknowledged.items() <= kept.items()
        texts = {each["id"]: each["schema"] for each in listings[0]}
        assert len(set(texts.values())) == len(texts)
        for subject in {each["subject"] for each in listings[0]}:
            versions = [each["version"] for each in listings[0] if each["subject"] == subject]
            assert versions == list(range(1, len(versions) + 1))
    finally:
        for instance in instances:
            instance.stop()


def test_a_port_in_use(kafka: KafkaSettings, topic: str) -> None:
    with running_registry(kafka, topic) as url, pytest.raises(EnvironmentFault, match="is in use"):
        with running_registry(kafka, topic, listen=url.removeprefix("http://")):
            pass


def test_two_registries_with_one_address(kafka: KafkaSettings, topic: str) -> None:
    """As when both say 127.0.0.1:8081 on two machines: the first one ends and says why."""
    listen = f"127.0.0.1:{free_port()}"
    with pytest.raises(RegistryError, match="Another schema registry"), running_registry(kafka, topic, listen=listen):
        writer = Writer(kafka, topic)
        writer.take_over()
        claim = json.dumps({"leader": f"http://{listen}", "instance": "another"}).encode()
        position = int(str(health(f"http://{listen}")["position"]))
        writer.write([(b'{"keytype":"NOOP","magic":0}', claim)], position)
        until(lambda: not health(f"http://{listen}"), 60)


@pytest.mark.slow
def test_kafka_killed_and_restarted(kafka_server: Kafka, topic: str) -> None:
    with running_registry(kafka_server.settings, topic) as url, RegistryClient(url, timeout=30) as client:
        assert client.register("a", schema("a")) == 1
        kafka_server.kill()
        try:
            assert client.latest("a") == (1, 1, schema("a"))
            with RegistryClient(url) as other:
                assert other.register("a", schema("a")) == 1  # known: needs no write
            with pytest.raises(ConnectionError, match="cannot answer now"):
                client.register("b", schema("b"))
        finally:
            kafka_server.start()

        def registered() -> bool:
            try:
                return client.register("b", schema("b")) == 2
            except ConnectionError:
                return False

        until(registered, 60, "the write after Kafka's return")


def test_without_kafka_it_waits_and_stops_when_told() -> None:
    instance = RegistryProcess(KafkaSettings(bootstrap=f"127.0.0.1:{free_port()}"), "_schemas")
    instance.start()
    try:
        until(lambda: bool(health(instance.url)), 60, "an answer")
        assert health(instance.url)["loaded"] is False
        with RegistryClient(instance.url) as client, pytest.raises(ConnectionError, match="have not been read"):
            client.subjects()
    finally:
        assert instance.stop() == 0


def create(kafka: KafkaSettings, topic: str, partitions: int, policy: str) -> None:
    admin = AdminClient(kafka.client())
    admin.create_topics([NewTopic(topic, partitions, 1, config={"cleanup.policy": policy})])[topic].result(20)


@pytest.mark.parametrize(
    ("partitions", "policy", "words"), [(2, "compact", "2 partitions"), (1, "delete", "cleanup.policy=delete")]
)
def test_a_topic_that_could_lose_schemas(
    kafka: KafkaSettings, topic: str, partitions: int, policy: str, words: str
) -> None:
    create(kafka, topic, partitions, policy)
    with pytest.raises(InstepError, match=words), running_registry(kafka, topic):
        pass


def test_credentials(kafka: KafkaSettings, topic: str) -> None:
    with running_registry(kafka, topic, user="stock", password="s3cret") as url:
        for user, password in (("stock", "wrong"), ("", "")):
            with RegistryClient(url, user, password) as client, pytest.raises(RegistryError, match=r"registry\.user"):
                client.subjects()
        with RegistryClient(url, "stock", "s3cret") as client:
            assert client.register("a", schema("a")) == 1
            assert client.subjects() == ["a"]
