"""Kafka: transactions with their journal entry, offset ranges, topics."""

from instep_connectors.kafka.admin import (
    TopicSpec,
    committed,
    delete_records,
    delete_topics,
    end_offsets,
    ensure_topics,
    group_lag,
    offsets_for_time,
    partitions,
    start_offsets,
    topics,
)
from instep_connectors.kafka.faults import Fenced, RangeGone
from instep_connectors.kafka.publisher import Publisher
from instep_connectors.kafka.reader import Follower, RangeReader, last_record, read_topic
from instep_connectors.kafka.records import Headers, OutRecord, Record

__all__ = [
    "Fenced",
    "Follower",
    "Headers",
    "OutRecord",
    "Publisher",
    "RangeGone",
    "RangeReader",
    "Record",
    "TopicSpec",
    "committed",
    "delete_records",
    "delete_topics",
    "end_offsets",
    "ensure_topics",
    "group_lag",
    "last_record",
    "offsets_for_time",
    "partitions",
    "read_topic",
    "start_offsets",
    "topics",
]
