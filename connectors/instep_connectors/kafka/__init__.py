"""Kafka: transactions with their journal entry, offset ranges, topics."""

from instep_connectors.kafka.admin import (
    TopicSpec,
    committed,
    delete_records,
    delete_topics,
    end_offsets,
    ensure_topics,
    group_lag,
    make_topics,
    offsets_for_time,
    partitions,
    start_offsets,
    topics,
)
from instep_connectors.kafka.faults import Fenced, RangeGone
from instep_connectors.kafka.publisher import BlockingPublisher, Publisher
from instep_connectors.kafka.reader import Follower, RangeReader, last_record, read_topic
from instep_connectors.kafka.records import Headers, OutRecord, RawRecord, Record

__all__ = [
    "BlockingPublisher",
    "Fenced",
    "Follower",
    "Headers",
    "OutRecord",
    "Publisher",
    "RangeGone",
    "RangeReader",
    "RawRecord",
    "Record",
    "TopicSpec",
    "committed",
    "delete_records",
    "delete_topics",
    "end_offsets",
    "ensure_topics",
    "group_lag",
    "last_record",
    "make_topics",
    "offsets_for_time",
    "partitions",
    "read_topic",
    "start_offsets",
    "topics",
]
