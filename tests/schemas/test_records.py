import pytest
from hypothesis import given
from hypothesis import strategies as st

from instep.change import Position
from instep.journal import Counts, JournalEntry
from instep_schemas.records import decode_journal, encode_journal, frame, unframe

numbers = st.integers(0, 2**31 - 1)
counts = st.builds(Counts, *[numbers] * 6)
partitions = st.dictionaries(st.tuples(st.text(min_size=1), numbers), st.tuples(numbers, numbers))


@given(st.text(), numbers, st.integers(1, 2**31 - 1), partitions, st.dictionaries(st.text(), counts), st.lists(numbers))
def test_a_journal_entry_survives_its_bytes(
    source: str,
    batch: int,
    epoch: int,
    ranges: dict[tuple[str, int], tuple[int, int]],
    tables: dict[str, Counts],
    ids: list[int],
) -> None:
    entry = JournalEntry(
        source=source,
        batch=batch,
        epoch=epoch,
        system="7300000000000000000",
        timeline=1,
        first=Position(epoch, 5, 0),
        last=Position(epoch, 9, 2),
        first_commit_us=1,
        last_commit_us=2,
        starts={tp: start for tp, (start, _) in ranges.items()},
        ends={tp: end for tp, (_, end) in ranges.items()},
        counts=tables,
        schema_ids=tuple(ids),
    )
    assert decode_journal(encode_journal(entry)) == entry
    assert entry.changes == sum(each.total for each in tables.values())


@given(st.integers(0, 2**32 - 1), st.binary())
def test_framing_is_a_zero_byte_and_the_id(schema_id: int, body: bytes) -> None:
    assert unframe(frame(schema_id, body)) == (schema_id, body)
    assert frame(schema_id, body)[:1] == b"\0"


@pytest.mark.parametrize("data", [b"", b"\0\0\0", b"\1\0\0\0\1x", b"{}"])
def test_what_is_not_framed_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="wire format"):
        unframe(data)
