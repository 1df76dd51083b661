"""Every recorded case, end to end: what `instep capture --debezium` writes is equal, or a documented exception."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fixtures.postgres import PostgresForTests
from tests.golden.cases import FOLDER, load, names
from tests.golden.compare import compare
from tests.golden.replay import Replay, Replayed

from instep.settings import KafkaSettings
from instep_schemas.wire import EXCEPTIONS

MORE = FOLDER / "more"
DOCUMENTED = {
    "alters": {"name-in-stream"},
    "autoset_identity": {"unknown-key"},
    "db_settings": {"store-settings"},
    "ddl_behind": {"dropped-table"},
    "decimals_text": {"negative-scale"},
    "identity_quoted": {"identity-given-up"},
    "incr_surrogate": {"keyless-copy"},
    "infinity_iso": {"iso-infinity"},
    "internal_types": {"name-in-stream", "vector"},
    "key_chosen_null": {"unknown-key"},
    "keys_default": {"null-with-default"},
    "shared_topic": {"shared-topic"},
    "signal_stop": {"unheeded-stop"},
    "snap_always": {"copied-again"},
    "key_left_out": {"left-out-key"},
    "masks_more": {"mask-not-text"},
    "midnight_iso": {"iso-midnight"},
    "unknown_hex": {"names-with-schema"},
    "alter_types": {"enum-labels"},
    "bit_arrays": {"bit-array"},
    "bytes_base64": {"connector-death"},
    "key_mix": {"unknown-key"},
    "times_iso": {"array-times"},
    "times_nano": {"array-times", "connector-death"},
    "toast_modes": {"toast-without-placeholder"},
    "enum_null": {"null-in-enum-array"},
    "nan_kills": {"numeric-special"},
    "placeholder": {"toast-without-placeholder"},
    "specials": {"array-dimensions", "numeric-special"},
    "defaults": {"null-with-default"},
    "infinity": {"date-infinity"},
    "none_digit": {"adjusted-names"},
    "null_vs_default": {"null-with-default"},
    "replica_identity": {"unknown-key"},
    "types_core": {"name-in-stream"},
    "types_not_null": {"name-in-stream"},
}
"""The cases that may differ, and by what; every other one is equal byte for byte."""


CASES = [(folder, name) for folder in (FOLDER, MORE) for name in names(folder)]


@pytest.fixture
def replay(
    request: pytest.FixtureRequest, postgres: PostgresForTests, kafka: KafkaSettings, registry: str
) -> Iterator[Replay]:
    replay = Replay(load(*request.param), postgres, kafka, registry)
    yield replay
    replay.close()


@pytest.mark.parametrize(
    ("case", "replay"), [(case, case) for case in CASES], ids=lambda case: case[1], indirect=["replay"]
)
def test_a_recorded_case(case: tuple[Path, str], replay: Replay) -> None:
    verdict = compare(load(*case), replay.run())
    assert verdict.difference == ""
    assert verdict.exceptions == DOCUMENTED.get(case[1], set())  # one that is not met any more is a stale declaration
    assert verdict.exceptions <= EXCEPTIONS.keys()


@pytest.mark.parametrize("replay", [(FOLDER, "restart")], ids=["restart"], indirect=True)
def test_a_difference_is_found(replay: Replay) -> None:
    """A comparison that cannot fail is none: each defect put into what was written is named."""
    case = load(FOLDER, "restart")
    ours = replay.run()
    assert str(compare(case, ours)) == "equal"
    (topic,) = ours.records
    records = ours.records[topic]
    record = records[-1]
    value = record.value or b""
    defects = {
        "only theirs": records[:-1],
        "only ours": [*records, record],
        "key: id": [*records[:-1], record._replace(key=(record.key or b"")[:-1] + b"\x04")],
        "after.v": [*records[:-1], record._replace(value=value.replace(b"\x02\x06\x02\x02d", b"\x02\x06\x02\x02e"))],
        "headers": [*records[:-1], record._replace(headers=record.headers[1:])],
    }
    for words, damaged in defects.items():
        told = str(compare(case, Replayed(ours.subjects, ours.texts, {topic: damaged}, [], ours.types)))
        assert told.startswith("different:") and words in told, told
