from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException

from instep.errors import Advice, KafkaFault, advice
from instep_connectors.kafka import Fenced
from instep_connectors.kafka.faults import fault


@pytest.mark.parametrize(
    "code",
    [
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._MSG_TIMED_OUT,
        KafkaError.NOT_COORDINATOR,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.INVALID_TXN_STATE,
    ],
)
def test_what_passes_by_itself_is_tried_again(code: int) -> None:
    exc = fault(KafkaException(KafkaError(code)), "do this", "host:9092")
    assert isinstance(exc, ConnectionError)
    assert advice(exc) is Advice.AGAIN
    assert str(exc).startswith("Kafka at host:9092 cannot do this: ")


@pytest.mark.parametrize(
    "code",
    [KafkaError._AUTHENTICATION, KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.SASL_AUTHENTICATION_FAILED],
)
def test_refused_rights_name_the_setting_to_check(code: int) -> None:
    exc = fault(KafkaError(code), "read", "host:9092")
    assert isinstance(exc, KafkaFault) and "[kafka] options" in exc.remedy


@pytest.mark.parametrize("code", [KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH])
def test_an_overtaken_producer_is_told_apart(code: int) -> None:
    assert isinstance(fault(KafkaError(code), "publish", "h"), Fenced)


def test_anything_else_is_for_a_person() -> None:
    exc = fault(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), "publish", "h")
    assert isinstance(exc, KafkaFault) and not isinstance(exc, Fenced)
    assert advice(exc) is Advice.NEVER
    assert "MSG_SIZE_TOO_LARGE" in exc.remedy


def test_an_exception_without_an_error_inside_still_has_words() -> None:
    assert "odd" in str(fault(KafkaException("odd"), "x", "h"))
