from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from instep.change import Position
from instep.protocols import Delete, Document
from instep_ops.verification.compare import MISSING, Difference
from instep_ops.verification.delivered import Delivered, Ledgered, Waiting
from instep_ops.verification.fold import Fold

KEY = ("x",)
AT = 1000


def document(version: int, lsn: int, **fields: Any) -> Document:
    return Document("card", KEY, {"sku": "x", **fields} if fields else None, version, Position(1, lsn))


def judge(
    documents: list[Document],
    before: Ledgered,
    crm: Mapping[str, Any] | None,
    after: Ledgered | None = None,
    delete: Delete = Delete.DEACTIVATE,
    columns: tuple[str, ...] | None = None,
    on_the_way: Sequence[Document] = (),
) -> list[Difference | Waiting]:
    fold = Fold(Position(1, AT))
    for each in documents:
        fold.add(each)
    rule = Delivered("crm", "card", ("sku",), columns, delete, fold)
    for each in on_the_way:
        fold.add(each)
    return list(rule.judge(KEY, before, after or before, crm, {"sku": "x", "name": "S"}))


def applied(version: int) -> Ledgered:
    return Ledgered(version, version)


def test_the_applied_version_stands_in_the_crm() -> None:
    assert judge([document(3, 500, name="N")], applied(3), {"name": "N"}) == []


def test_a_damaged_record_is_named_with_all_three_sides() -> None:
    (found,) = judge([document(3, 500, name="N")], applied(3), {"name": "damaged"})
    assert isinstance(found, Difference)
    assert (found.target, found.flow, found.key, found.field) == ("crm", "card", KEY, "name")
    assert (found.store, found.topic, found.crm) == ("S", "N", "damaged")


def test_a_vanished_record_is_a_difference() -> None:
    (found,) = judge([document(3, 500, name="N")], applied(3), None)
    assert isinstance(found, Difference) and found.field is None and found.crm is MISSING


def test_the_crm_may_be_ahead_of_the_position() -> None:
    documents = [document(3, 500, name="N"), document(7, 2000, name="newer")]
    assert judge(documents, applied(7), {"name": "newer"}) == []


def test_what_may_be_on_its_way_is_no_difference_yet() -> None:
    documents, newer = [document(3, 500, name="N")], document(7, 2000, name="newer")
    (found,) = judge(documents, applied(3), {"name": "newer"}, on_the_way=[newer])
    assert isinstance(found, Waiting)
    (found,) = judge(documents, applied(3), {"name": "newer"}, after=applied(7))
    assert isinstance(found, Waiting)


def test_what_is_on_its_way_need_not_be_waited_for() -> None:
    newer = document(7, 2000, name="newer")
    assert judge([document(3, 500, name="N")], applied(3), {"name": "N"}, on_the_way=[newer]) == []


def test_a_version_put_off_beyond_the_position_has_to_be_delivered_too() -> None:
    (found,) = judge([document(3, 500, name="N"), document(7, 2000, name="late")], applied(3), {"name": "N"})
    assert isinstance(found, Waiting) and "version 7" in found.reason


@pytest.mark.parametrize("ledgered", [Ledgered(), applied(2)])
def test_an_undelivered_version_is_waited_for(ledgered: Ledgered) -> None:
    (found,) = judge([document(3, 500, name="N")], ledgered, None)
    assert isinstance(found, Waiting) and "version 3" in found.reason


def test_a_rejected_version_is_reported_with_its_reason() -> None:
    (found,) = judge([document(3, 500, name="N")], Ledgered(2, 3, "http 400: no such unit"), None)
    assert isinstance(found, Difference)
    assert found.reason == "rejected: http 400: no such unit"


def test_a_rejected_version_may_have_a_better_one_on_its_way() -> None:
    documents, newer = [document(3, 500, name="N")], document(7, 2000, name="newer")
    (found,) = judge(documents, Ledgered(2, 3, "http 400: no such unit"), None, on_the_way=[newer])
    assert isinstance(found, Waiting)


def test_an_old_rejection_does_not_hide_that_the_newest_version_waits() -> None:
    (found,) = judge([document(3, 500, name="N")], Ledgered(1, 2, "http 400: x"), None)
    assert isinstance(found, Waiting)


def test_a_gone_row_has_no_record() -> None:
    documents = [document(4, 500)]
    assert judge(documents, applied(4), None) == []
    (found,) = judge(documents, applied(4), {"name": "still there"})
    assert isinstance(found, Difference) and found.topic is MISSING


def test_a_key_of_the_ledger_alone_is_known_to_nobody_else() -> None:
    assert judge([], Ledgered(), None) == []
    (found,) = judge([], applied(2), {"name": "N"})
    assert isinstance(found, Waiting)


def test_a_flow_that_ignores_deletes_keeps_the_record() -> None:
    assert judge([document(4, 500)], applied(4), {"name": "kept"}, delete=Delete.IGNORE) == []
    (found,) = judge([document(4, 500)], applied(3), {"name": "kept"}, delete=Delete.IGNORE)
    assert isinstance(found, Waiting)  # every version has an outcome, this one too


def test_only_delivered_columns_are_compared_and_the_key_is_not() -> None:
    fields = {"name": "N", "secret_margin": 3}
    assert judge([document(3, 500, **fields)], applied(3), {"name": "N"}, columns=("sku", "name")) == []
    (found,) = judge([document(3, 500, **fields)], applied(3), {"name": "N"})
    assert isinstance(found, Difference) and found.field == "secret_margin"


def test_a_version_the_topic_has_lost_cannot_be_judged() -> None:
    (found,) = judge([document(3, 500, name="N")], applied(9), {"name": "N"})
    assert isinstance(found, Waiting) and "version 9" in found.reason
