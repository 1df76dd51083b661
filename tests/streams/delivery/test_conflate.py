from hypothesis import given
from hypothesis import strategies as st
from tests.streams.delivery.parts import value

from instep_streams.delivery.conflate import Waiting, conflate

backlogs = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 20)).map(lambda each: value(*each)), max_size=30)


@given(backlogs)
def test_each_key_keeps_its_newest_version_and_accounts_for_every_other(backlog: list[Waiting]) -> None:
    newest = conflate(backlog)
    assert len({each.waiting.document.key for each in newest}) == len(newest)
    for each in newest:
        document = each.waiting.document
        versions = {w.document.version for w in backlog if w.document.key == document.key}
        older = [w.document.version for w in each.older]
        assert document.version == max(versions)
        assert older == sorted(versions - {document.version})
    assert {each.waiting.document.key for each in newest} == {w.document.key for w in backlog}


def test_keys_stay_in_the_order_in_which_they_came() -> None:
    newest = conflate([value("b", 1), value("a", 2), value("b", 3)])
    assert [each.waiting.document.key for each in newest] == [("b",), ("a",)]
