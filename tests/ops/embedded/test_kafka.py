import socket
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from instep.errors import EnvironmentFault
from instep.settings import KafkaSettings
from instep_ops.embedded import Kafka


def topics(bootstrap: str) -> set[str]:
    return set(AdminClient({"bootstrap.servers": bootstrap}).list_topics(timeout=20).topics)


def test_broker_serves_and_creates_no_topic_by_itself(kafka: KafkaSettings) -> None:
    producer = Producer(kafka.client() | {"message.timeout.ms": 1500})
    errors: list[str] = []
    producer.produce("embedded.typo", b"x", on_delivery=lambda error, _: errors.append(str(error)))
    producer.flush(10)
    assert errors
    assert "embedded.typo" not in topics(kafka.bootstrap)


def test_restart_and_kill_keep_data_and_port(tmp_path: Path) -> None:
    server = Kafka(tmp_path)
    server.ensure()
    server.start()
    try:
        bootstrap = server.bootstrap
        admin = AdminClient({"bootstrap.servers": bootstrap})
        admin.create_topics([NewTopic("kept", 1, 1)])["kept"].result(20)
        for end in (server.stop, server.kill):
            end()
            assert not server.alive()
            server.start()
            assert server.bootstrap == bootstrap
            assert "kept" in topics(bootstrap)
    finally:
        server.stop()


def test_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        server = Kafka(tmp_path, other.getsockname()[1])
        server.ensure()
        with pytest.raises(EnvironmentFault, match=r"Kafka cannot listen on .*: the port is in use"):
            server.start()


def test_everything_in_the_cache_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")  # nothing answers there
    steps: list[str] = []
    server = Kafka(tmp_path)
    server.ensure(lambda step, fraction: steps.append(step))
    assert set(steps) == {"Setting up Kafka"}
    server.ensure(lambda step, fraction: steps.append("again"))
    assert "again" not in steps


def test_without_java_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("instep_ops.embedded.kafka.find_spec", lambda name: None)
    with pytest.raises(EnvironmentFault, match="Java is not installed") as fault:
        Kafka(tmp_path).ensure()
    assert "instep[embedded]" in fault.value.remedy


def test_a_broker_that_cannot_start_quotes_its_log(tmp_path: Path) -> None:
    Kafka(tmp_path).ensure()
    server = Kafka(tmp_path, settings={"log.segment.bytes": "1"})
    with pytest.raises(EnvironmentFault, match=r"Kafka ended while starting: .*log\.segment\.bytes"):
        server.start()
    assert not server.alive()
    with pytest.raises(EnvironmentFault, match=r"Kafka cannot set up .*log\.segment\.bytes"):
        Kafka(tmp_path / "fresh", settings={"log.segment.bytes": "1"}).ensure()
