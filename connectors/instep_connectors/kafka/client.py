"""The librdkafka settings all our clients share, and one log line per change of the connection's state."""

from __future__ import annotations

import logging
from typing import Any

from confluent_kafka import KafkaError

from instep.settings import KafkaSettings

_CALLBACKS = ("error_cb", "on_commit")
log = logging.getLogger("instep.kafka")


class Connectivity:
    """Logs that the brokers are gone, once, and that they are back, once.

    librdkafka reports every failed reconnect; a person wants to read it once.
    """

    def __init__(self, kafka: KafkaSettings, who: str) -> None:
        self._servers, self._who, self._down = kafka.bootstrap, who, False
        self.refusal: KafkaError | None = None
        """Wrong credentials or certificates: librdkafka would try for ever, waiting cannot help."""

    def error(self, error: KafkaError) -> None:
        """The error callback. Most errors are retried inside of librdkafka; the others come with the call."""
        if error.code() in (KafkaError._AUTHENTICATION, KafkaError._SSL):
            self.refusal = error
        if error.code() == KafkaError._ALL_BROKERS_DOWN and not self._down:
            self._down = True
            log.warning("%s: Kafka at %s does not answer; trying again until it does.", self._who, self._servers)

    def works(self) -> None:
        """Something succeeded."""
        self.refusal = None
        if self._down:
            self._down = False
            log.info("%s: Kafka at %s answers again.", self._who, self._servers)


def client_config(kafka: KafkaSettings, who: str, **more: Any) -> dict[str, Any]:
    """Settings of one client.

    Args:
        kafka: the brokers; `options` of the user win over ours, never over `more`.
        who: the client id, shown in the broker's log and metrics.
        more: librdkafka settings of this client, `_` for `.`, and callbacks.
    """
    return {
        "client.id": who,
        "reconnect.backoff.max.ms": 2_000,
        "socket.keepalive.enable": True,
        "log.connection.close": False,
        # librdkafka would write each failed reconnect to stderr; errors reach us through error_cb and calls
        "log_level": 2,
        **kafka.client(),
        **{name if name in _CALLBACKS else name.replace("_", "."): value for name, value in more.items()},
    }


def producer_config(kafka: KafkaSettings, who: str, **more: Any) -> dict[str, Any]:
    """Settings of a producer: nothing lost, nothing twice, and each key in the partition where Java would put it."""
    ours = {
        "enable_idempotence": True,
        "acks": "all",
        # librdkafka's own default (CRC32) puts 9 of 10 keys elsewhere than Java's and aiokafka's murmur2
        "partitioner": "murmur2_random",
        "batch_size": 262_144,
        "compression_type": "lz4",
        "queue_buffering_max_messages": 1_000_000,
        # how long a topic that does not exist may still come to be
        "topic_metadata_propagation_max_ms": 5_000,
    }
    return client_config(kafka, who, **(ours | more))


def consumer_config(kafka: KafkaSettings, who: str, **more: Any) -> dict[str, Any]:
    """Settings of a consumer that sees committed records only and never moves a group by itself."""
    ours = {
        "group_id": who,
        "isolation_level": "read_committed",
        "enable_auto_commit": False,
        "enable_auto_offset_store": False,
        # default 1000: a full local queue would stall its partition for a second
        "fetch_queue_backoff_ms": 10,
        "fetch_wait_max_ms": 100,
    }
    return client_config(kafka, who, **(ours | more))
