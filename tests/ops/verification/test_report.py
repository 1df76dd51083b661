import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from instep_ops.verification.compare import MISSING, Difference
from instep_ops.verification.report import Proof, Report, Undecided


def report(**proof: object) -> Report:
    made = Proof("card", "crm", "1:0/3E8:0", rows=3, topic_compared=3, crm_compared=2)
    for name, value in proof.items():
        setattr(made, name, value)
    return Report([made], seconds=1.25)


DIFFERENCE = Difference("card", ("a", "1"), "price", Decimal("1.50"), MISSING, datetime(2026, 1, 31, tzinfo=UTC), "crm")


def test_a_clean_proof() -> None:
    made = report()
    assert made.ok and made.rows_compared == 5
    assert made.sentence() == "Verified at 1:0/3E8:0: 5 rows compared, 0 differences (1.2 s)."
    assert [rows for title, _, rows in made.tables() if title != "Flows"] == [[], []]


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (report(differences=[DIFFERENCE]), "1 differences"),
        (report(undecided=[Undecided("card", ("a",), "", "late")]), "1 rows undecided"),
        (Report(unbalanced=["card: 3 documents have no outcome."]), "3 documents have no outcome."),
    ],
)
def test_whatever_is_not_certain_is_not_proven(made: Report, told: str) -> None:
    assert not made.ok
    assert made.sentence().startswith("Not proven") and told in made.sentence()


def test_json_has_every_side_of_a_difference() -> None:
    shown = json.loads(json.dumps(report(differences=[DIFFERENCE]).to_dict(), default=str))
    assert (shown["ok"], shown["differences"], shown["rows_compared"]) == (False, 1, 5)
    (found,) = shown["flows"][0]["differences"]
    assert found["key"] == ["a", "1"]
    assert (found["store"], found["topic"], found["target"]) == ("1.50", "missing", "crm")


def test_a_long_list_is_cut_for_people_only() -> None:
    made = report(differences=[DIFFERENCE] * 60)
    (rows,) = [rows for title, _, rows in made.tables() if title == "Differences"]
    assert len(rows) == 50 and "--json lists all" in made.sentence()
    assert len(made.to_dict()["flows"][0]["differences"]) == 60
