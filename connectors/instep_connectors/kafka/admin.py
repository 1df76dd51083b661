"""Topics, offsets and groups: what the processes create and ask. All calls block for at most `timeout` seconds.

Each call has its own client: one that lived through a broker's death can hang in group requests, and starting one
costs 50 ms. The client must be referenced until its futures are done: a collected handle fails them (`_DESTROY`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import confluent_kafka as ck
from confluent_kafka import IsolationLevel, KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # re-exported by it, but not in its __all__
    AdminClient,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from instep.errors import KafkaFault
from instep.journal import TopicPartition
from instep.settings import KafkaSettings
from instep_connectors.kafka.client import client_config, consumer_config
from instep_connectors.kafka.faults import error_of, fault, passing

log = logging.getLogger("instep.kafka")
TIMEOUT: Final = 20.0
_AT: Final[Any] = OffsetSpec  # its methods have no annotations
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic that a process writes.

    Attributes:
        name: of the topic.
        partitions: of a new topic. 1 also means that the order over the whole topic matters: more are refused.
        config: topic settings, `{"cleanup.policy": "compact"}`.
    """

    name: str
    partitions: int = 1
    config: Mapping[str, str] = field(default_factory=dict)


def _client(kafka: KafkaSettings) -> AdminClient:
    return AdminClient(client_config(kafka, "instep-admin"))


def _result(future: Future[Any], doing: str, kafka: KafkaSettings, timeout: float = TIMEOUT) -> Any:
    try:
        return future.result(timeout)
    except KafkaException as exc:
        raise fault(exc, doing, kafka.bootstrap) from exc
    except TimeoutError as exc:
        raise TimeoutError(f"Kafka at {kafka.bootstrap} did not {doing} within {timeout:g} s.") from exc


def _metadata(admin: AdminClient, kafka: KafkaSettings, timeout: float = TIMEOUT) -> dict[str, int]:
    try:
        found = admin.list_topics(timeout=timeout).topics
    except KafkaException as exc:
        raise fault(exc, "list its topics", kafka.bootstrap) from exc
    return {name: sum(p.leader >= 0 for p in topic.partitions.values()) for name, topic in found.items()}


def topics(kafka: KafkaSettings, timeout: float = TIMEOUT) -> dict[str, int]:
    """Every topic with its number of partitions that can be used.

    Raises:
        ConnectionError: no broker answers.
        KafkaFault: refused.
    """
    return _metadata(_client(kafka), kafka, timeout)


def partitions(kafka: KafkaSettings, topic: str) -> int:
    """How many partitions the topic has; 0: there is no such topic. Raises as `topics`."""
    return topics(kafka).get(topic, 0)


def ensure_topics(kafka: KafkaSettings, specs: Sequence[TopicSpec], timeout: float = 30.0) -> list[str]:
    """Create the topics that are missing and wait until they can be used; existing ones are never altered.

    Returns:
        One sentence per existing topic that is not as wanted (fewer partitions, another cleanup.policy); also logged.

    Raises:
        ConnectionError: no broker answers.
        TimeoutError: created, but not usable in time.
        KafkaFault: creation refused, or a topic whose order matters has several partitions.
    """
    admin = _client(kafka)
    found = _metadata(admin, kafka)
    _create_missing(admin, kafka, specs, found, timeout)
    return _differences(admin, kafka, specs, found)


def make_topics(kafka: KafkaSettings, specs: Sequence[TopicSpec], timeout: float = 30.0) -> dict[str, int]:
    """Like `ensure_topics`, and give how many partitions each has."""
    admin = _client(kafka)
    found = _metadata(admin, kafka)
    created = _create_missing(admin, kafka, specs, found, timeout)
    _differences(admin, kafka, specs, found)
    return {spec.name: found.get(spec.name) or created[spec.name] for spec in specs}


def _differences(
    admin: AdminClient, kafka: KafkaSettings, specs: Sequence[TopicSpec], found: Mapping[str, int]
) -> list[str]:
    existing = [spec for spec in specs if spec.name in found]
    differences = [text for spec in existing for text in _partition_difference(spec, found[spec.name])]
    differences += _policy_differences(admin, kafka, existing)
    for text in differences:
        log.warning("%s", text)
    return differences


def _create_missing(
    admin: AdminClient, kafka: KafkaSettings, specs: Sequence[TopicSpec], found: Mapping[str, int], timeout: float
) -> dict[str, int]:
    missing = [spec for spec in specs if not found.get(spec.name)]
    _create(admin, kafka, [spec for spec in missing if spec.name not in found])
    return _await_usable(admin, kafka, missing, timeout)


def _create(admin: AdminClient, kafka: KafkaSettings, specs: Sequence[TopicSpec]) -> None:
    if not specs:
        return
    new = [NewTopic(s.name, s.partitions, kafka.replication, config=dict(s.config)) for s in specs]
    for name, future in admin.create_topics(new, operation_timeout=TIMEOUT, request_timeout=TIMEOUT).items():
        try:
            future.result(TIMEOUT + 1)
        except KafkaException as exc:
            if error_of(exc).code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another process was quicker: as good
                raise fault(exc, f"create topic {name}", kafka.bootstrap) from exc


def _await_usable(
    admin: AdminClient, kafka: KafkaSettings, specs: Sequence[TopicSpec], timeout: float
) -> dict[str, int]:
    deadline = time.monotonic() + timeout
    while specs:
        usable = _metadata(admin, kafka)
        waiting = [spec.name for spec in specs if not usable.get(spec.name)]
        if not waiting:
            return usable
        if time.monotonic() > deadline:
            raise TimeoutError(f"Kafka at {kafka.bootstrap} created {', '.join(waiting)} but it has no leader yet.")
        time.sleep(0.02)
    return {}


def _partition_difference(spec: TopicSpec, found: int) -> Iterable[str]:
    if spec.partitions == 1 and found > 1:
        raise KafkaFault(
            f"Topic {spec.name} has {found} partitions, but its order matters: it must have 1.",
            "Delete the topic if nothing needs it, or choose another name for the source.",
        )
    if found < spec.partitions:
        yield (
            f"Topic {spec.name} has {found} partitions, the settings ask for {spec.partitions}; it is used as it is "
            "(more partitions would put keys elsewhere)."
        )


def _policy_differences(admin: AdminClient, kafka: KafkaSettings, specs: Sequence[TopicSpec]) -> list[str]:
    wanted = {s.name: s.config["cleanup.policy"] for s in specs if "cleanup.policy" in s.config}
    if not wanted:
        return []
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in wanted]
    texts = []
    for resource, future in admin.describe_configs(resources, request_timeout=TIMEOUT).items():
        config = _result(future, f"describe topic {resource.name}", kafka)
        found, want = config["cleanup.policy"].value, wanted[resource.name]
        if set(found.split(",")) != set(want.split(",")):
            texts.append(
                f"Topic {resource.name} has cleanup.policy={found}, Instep needs {want}; set it with your Kafka tools."
            )
    return texts


def _offsets(
    kafka: KafkaSettings,
    tps: Iterable[TopicPartition],
    spec: OffsetSpec,
    isolation: IsolationLevel,
    client: AdminClient | None = None,
) -> dict[TopicPartition, int]:
    request = {ck.TopicPartition(topic, number): spec for topic, number in tps}
    if not request:
        return {}
    admin = client or _client(kafka)

    def ask() -> dict[TopicPartition, int]:
        futures = admin.list_offsets(request, isolation_level=isolation, request_timeout=TIMEOUT)
        return {(tp.topic, tp.partition): future.result(TIMEOUT).offset for tp, future in futures.items()}

    return _insist(ask, f"list the offsets of {', '.join(sorted({tp.topic for tp in request}))}", kafka)


def _insist(ask: Callable[[], Answer], doing: str, kafka: KafkaSettings) -> Answer:
    """Ask again for a while: a topic or group just created answers "not leader", "not coordinator" at first."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            return ask()
        except KafkaException as exc:
            if not passing(exc) or time.monotonic() > deadline:
                raise fault(exc, doing, kafka.bootstrap) from exc
        except TimeoutError as exc:
            raise TimeoutError(f"Kafka at {kafka.bootstrap} did not {doing} within {TIMEOUT:g} s.") from exc
        time.sleep(0.05)


def written(kafka: KafkaSettings, tp: TopicPartition) -> tuple[int, int]:
    """First offset of a partition and the one behind all that was written, asked with one client; (0, 0): no topic.

    Raises as `start_offsets`.
    """
    admin = _client(kafka)
    if tp[1] >= _metadata(admin, kafka).get(tp[0], 0):
        return 0, 0
    first = _offsets(kafka, [tp], _AT.earliest(), IsolationLevel.READ_UNCOMMITTED, admin)
    end = _offsets(kafka, [tp], _AT.latest(), IsolationLevel.READ_UNCOMMITTED, admin)
    return first[tp], end[tp]


def start_offsets(kafka: KafkaSettings, tps: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
    """The first offset that each partition still holds.

    Raises:
        ConnectionError, TimeoutError: no broker answers.
        KafkaFault: refused, or no such topic.
    """
    return _offsets(kafka, tps, _AT.earliest(), IsolationLevel.READ_UNCOMMITTED)


def end_offsets(
    kafka: KafkaSettings, tps: Iterable[TopicPartition], *, committed_only: bool = True
) -> dict[TopicPartition, int]:
    """The offset behind the last one that can be read now (a control record counts as one).

    Args:
        kafka: the brokers.
        tps: which partitions.
        committed_only: as a read_committed reader sees it; False: behind all that was written, open transactions too.

    Raises as `start_offsets`.
    """
    isolation = IsolationLevel.READ_COMMITTED if committed_only else IsolationLevel.READ_UNCOMMITTED
    return _offsets(kafka, tps, _AT.latest(), isolation)


def offsets_for_time(
    kafka: KafkaSettings, tps: Iterable[TopicPartition], timestamp_ms: int
) -> dict[TopicPartition, int]:
    """The first offset whose record is from this time (milliseconds since the Unix epoch) or later.

    The end offset where there is none. Raises as `start_offsets`.
    """
    tps = list(tps)
    found = _offsets(kafka, tps, _AT.for_timestamp(timestamp_ms), IsolationLevel.READ_COMMITTED)
    none = [tp for tp, offset in found.items() if offset < 0]
    return found | end_offsets(kafka, none)


def committed(kafka: KafkaSettings, group: str, names: Iterable[str]) -> dict[TopicPartition, int]:
    """What the consumer group has committed in these topics; partitions without a commit are left out.

    Raises as `start_offsets`.
    """
    known = topics(kafka)
    tps = [ck.TopicPartition(name, number) for name in names for number in range(known.get(name, 0))]
    if not tps:
        return {}
    # not AdminClient.list_consumer_group_offsets: confluent-kafka 2.16.1 crashes (SIGSEGV) in it while the cluster has
    # no __consumer_offsets topic yet. This consumer only asks: it never joins the group.
    consumer = ck.Consumer(consumer_config(kafka, "instep-admin", group_id=group))
    try:
        doing = f"list the offsets of group {group}"
        answer = _insist(lambda: consumer.committed(tps, timeout=TIMEOUT), doing, kafka)
    finally:
        consumer.close()
    return {(tp.topic, tp.partition): tp.offset for tp in answer if tp.error is None and tp.offset >= 0}


def group_lag(kafka: KafkaSettings, group: str, names: Iterable[str]) -> dict[TopicPartition, int]:
    """Per partition, how many offsets the group has not committed yet; topics that do not exist are left out.

    Control records count, so a group of another client rests at 1 behind a transactional topic; ours reaches 0.
    Raises as `start_offsets`.
    """
    names = list(names)
    known = topics(kafka)
    tps = [(name, number) for name in names for number in range(known.get(name, 0))]
    done, ends = committed(kafka, group, names), end_offsets(kafka, tps)
    unread = start_offsets(kafka, [tp for tp in tps if tp not in done])
    return {tp: max(0, ends[tp] - done.get(tp, unread.get(tp, 0))) for tp in tps}


def delete_records(kafka: KafkaSettings, before: Mapping[TopicPartition, int]) -> None:
    """Delete everything below the given offsets. Raises as `start_offsets`."""
    admin = _client(kafka)
    request = [ck.TopicPartition(topic, number, offset) for (topic, number), offset in before.items()]
    for tp, future in admin.delete_records(request, request_timeout=TIMEOUT).items():
        _result(future, f"delete records of {tp.topic}", kafka)


def delete_topics(kafka: KafkaSettings, names: Iterable[str]) -> None:
    """Delete topics; those that do not exist are left out. Raises as `start_offsets`."""
    admin = _client(kafka)
    known = _metadata(admin, kafka)
    there = [name for name in names if name in known]
    if there:
        for name, future in admin.delete_topics(there, operation_timeout=TIMEOUT, request_timeout=TIMEOUT).items():
            _result(future, f"delete topic {name}", kafka, TIMEOUT + 1)
