import pytest
from tests.streams.delivery.parts import document, gone, value, waiting

from instep.protocols import Delete
from instep_streams.delivery.conflate import Newest
from instep_streams.delivery.decide import GONE, NOTHING, Applied, Entry, Kind, Next, decide, digest_of, superseded

FIVE = value("a", 5)
HELD = Applied(4, digest_of(FIVE.document), "17")


def kind(decision: Entry | Next) -> Kind | Next:
    return decision.kind if isinstance(decision, Entry) else decision


@pytest.mark.parametrize(
    ("applied", "wanted"),
    [
        (NOTHING, Next.SEND),
        (Applied(4, "other"), Next.SEND),
        (Applied(4, ""), Next.SEND),
        (HELD, Kind.UNCHANGED),
        (Applied(6, "other"), Kind.SUPERSEDED),
        (Applied(6, digest_of(FIVE.document)), Kind.SUPERSEDED),
        (Applied(5, "other", settled=True), Next.SETTLED),
        (Applied(3, "other", settled=True), Next.SETTLED),
    ],
)
def test_the_ledger_decides(applied: Applied, wanted: Kind | Next) -> None:
    assert kind(decide(Newest(FIVE), applied, Delete.DELETE)) is wanted


def test_an_older_version_that_may_have_been_sent_makes_the_digest_worthless() -> None:
    older = waiting(document("a", 4, {"v": "other"}))
    assert decide(Newest(FIVE, (older,)), Applied(3, digest_of(FIVE.document)), Delete.DELETE) is Next.SEND
    assert kind(decide(Newest(FIVE, (older,)), HELD, Delete.DELETE)) is Kind.UNCHANGED


def test_two_documents_without_a_digest_are_not_equal() -> None:
    blank = waiting(document("a", 5, {"v": 1}, digest=""))
    assert decide(Newest(blank), Applied(4, ""), Delete.DELETE) is Next.SEND


def test_a_replay_looks_at_the_target_but_leaves_newer_versions_alone() -> None:
    assert decide(Newest(FIVE), HELD, Delete.DELETE, rewrite=True) is Next.SEND
    assert decide(Newest(FIVE), Applied(5, settled=True), Delete.DELETE, rewrite=True) is Next.SEND
    assert kind(decide(Newest(FIVE), Applied(6), Delete.DELETE, rewrite=True)) is Kind.SUPERSEDED


def test_a_tombstone_is_sent_once_or_filtered() -> None:
    tombstone = Newest(gone("a", 5))
    assert decide(tombstone, HELD, Delete.DEACTIVATE) is Next.SEND
    assert kind(decide(tombstone, Applied(4, GONE), Delete.DEACTIVATE)) is Kind.UNCHANGED
    assert kind(decide(tombstone, HELD, Delete.IGNORE)) is Kind.FILTERED


def test_superseded_versions_get_their_outcome() -> None:
    entries = superseded([Newest(value("a", 3), (value("a", 1), value("a", 2))), Newest(value("b", 1))])
    assert [(e.document.version, e.kind) for e in entries] == [(1, Kind.SUPERSEDED), (2, Kind.SUPERSEDED)]
