"""What librdkafka's errors mean for us: passing (`ConnectionError`) or for a person (`KafkaFault`)."""

from __future__ import annotations

from typing import Final

from confluent_kafka import KafkaError, KafkaException

from instep.errors import KafkaFault

_REFUSED: Final = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError._SSL,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)
_UNKNOWN_TOPIC: Final = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
)
_FENCED: Final = frozenset({KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH})
# librdkafka's own `retriable` flag is set only where the same call may be repeated; these pass with a new client
_PASSING: Final = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._MSG_TIMED_OUT,
        KafkaError._RESOLVE,
        KafkaError._WAIT_COORD,
        KafkaError._WAIT_CACHE,
        KafkaError._PURGE_QUEUE,
        KafkaError._PURGE_INFLIGHT,
        KafkaError._DESTROY,
        KafkaError._STATE,
        KafkaError._MAX_POLL_EXCEEDED,
        KafkaError._ASSIGNMENT_LOST,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        # around a broker's restart client and broker may know different terms of office of the leader
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError.NOT_CONTROLLER,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.CONCURRENT_TRANSACTIONS,
        KafkaError.UNKNOWN_PRODUCER_ID,
        KafkaError.INVALID_PRODUCER_ID_MAPPING,
        KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
        KafkaError.INVALID_TXN_STATE,
        KafkaError.TRANSACTION_ABORTABLE,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.THROTTLING_QUOTA_EXCEEDED,
    }
)


class Fenced(KafkaFault):
    """Another producer started with our transactional id, or the broker gave up on our open transaction.

    The caller checks that it still holds what makes it the only writer (slot lock, journal partition) before it starts
    a new publisher.
    """


class RangeGone(KafkaFault):
    """Records that should be read are no longer (or never were) in the topic."""


def error_of(exc: KafkaException | KafkaError) -> KafkaError:
    """The error inside of confluent-kafka's exception."""
    if isinstance(exc, KafkaError):
        return exc
    found = exc.args[0] if exc.args else None
    return found if isinstance(found, KafkaError) else KafkaError(KafkaError._FAIL, str(exc))


def fault(exc: KafkaException | KafkaError, doing: str, servers: str) -> Exception:
    """The exception to raise for an error of librdkafka.

    Args:
        exc: what librdkafka gave.
        doing: what was tried, as the end of a sentence: "create topic shop.__journal".
        servers: `bootstrap` of the settings, for the message.

    Returns:
        `ConnectionError` when it passes by itself, `Fenced` for an overtaken producer, else `KafkaFault`.
    """
    error = error_of(exc)
    code, words = error.code(), (error.str() or error.name()).rstrip(".")
    cause = f"Kafka at {servers} cannot {doing}: {words}."
    if code in _FENCED:
        return Fenced(cause, "Another process with the same name may run; let only one of them run.")
    if code in _REFUSED:
        return KafkaFault(cause, "Check [kafka] options in instep.toml: user, password, certificates and rights.")
    if code in _UNKNOWN_TOPIC:
        return KafkaFault(cause, "Create the topic, or restart the process that writes it: it creates its topics.")
    if code in _PASSING or error.retriable():
        return ConnectionError(cause)
    return KafkaFault(cause, f"The broker's log may say more ({error.name()}).")


def passing(exc: KafkaException | KafkaError) -> bool:
    """Whether `fault` would give a `ConnectionError`."""
    return isinstance(fault(exc, "", ""), ConnectionError)
