"""The CRM side of a proof: a real ledger, and a CRM that a test can damage."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures.postgres import PostgresForTests

from instep.change import Position
from instep.flowfile import Flow
from instep.protocols import Document, Fields, Key, Rejected
from instep.settings import Settings, parse
from instep_ops.verification import readback
from instep_ops.verification.fold import Fold
from instep_ops.verification.readback import ReadBack
from instep_ops.verification.report import Proof
from instep_streams.delivery.decide import Entry, Kind
from instep_streams.delivery.ledger import Ledger

FLOW = Flow(name="card", sql="", key=("sku",), target="crm", object="product")


class Topics:
    """A topic that does not grow."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self.folds = {"card": Fold(Position(1, 1000))}
        for document in documents:
            self.folds["card"].add(document)

    def catch_up(self) -> None:
        """Nothing is new."""


class Crm:
    """A sink to read from."""

    def __init__(self, records: Mapping[Key, Fields]) -> None:
        self.records = dict(records)
        self.asked: list[Key] = []
        self.closed = False

    async def read(self, keys: Sequence[Key], /) -> Mapping[Key, Fields]:
        self.asked += keys
        return {key: self.records[key] for key in keys if key in self.records}

    async def aclose(self) -> None:
        self.closed = True


def document(key: str, version: int, name: str | None) -> Document:
    fields = None if name is None else {"sku": key, "name": name}
    return Document("card", (key,), fields, version, Position(1, version))


@pytest.fixture
def settings(postgres: PostgresForTests) -> Settings:
    return parse({"sources": {}, "state": {"dsn": postgres.database()}, "targets": {"crm": {"type": "x"}}}, Path())


async def record(settings: Settings, kind: Kind, *documents: Document, rejected: Rejected | None = None) -> None:
    ledger = Ledger(settings.state.dsn.reveal(), "crm")
    await ledger.open()
    await ledger.record([Entry(each, kind, 1, rejected) for each in documents])
    await ledger.aclose()


async def run(
    settings: Settings, documents: Sequence[Document], crm: Crm, monkeypatch: pytest.MonkeyPatch, patience: float = 5
) -> Proof:
    monkeypatch.setattr(readback, "open_sink", lambda settings, flow: crm)
    monkeypatch.setattr(readback, "_PAUSE_S", 0.01)
    proof = Proof("card", "", "1:0/3E8:0")
    topics: Any = Topics(documents)
    rows = {each.key: each.fields for each in documents if each.fields is not None}
    await ReadBack(settings, FLOW, topics, rows, proof).run(patience)
    assert crm.closed
    return proof


async def test_what_was_delivered_is_compared(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [document("a", 1, "A"), document("b", 2, "B"), document("gone", 3, None)]
    await record(settings, Kind.WRITTEN, *documents)
    crm = Crm({("a",): {"name": "A"}, ("b",): {"name": "damaged"}})
    proof = await run(settings, documents, crm, monkeypatch)
    assert (proof.target, proof.crm_compared, proof.undecided) == ("crm", 3, [])
    (found,) = proof.differences
    assert (found.key, found.field, found.topic, found.crm) == (("b",), "name", "B", "damaged")


async def test_the_flows_function_stands_between_topic_and_crm(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cards.py").write_text("def make(row):\n    return {'title': row['name'].upper()}\n")
    made = Flow(
        name="card", sql="", key=("sku",), target="crm", object="product", fields=("title",), transform="cards:make"
    )
    monkeypatch.setattr(f"{__name__}.FLOW", made)
    documents = [document("a", 1, "anna"), document("b", 2, "bert")]
    await record(settings, Kind.WRITTEN, *documents)
    crm = Crm({("a",): {"title": "ANNA"}, ("b",): {"title": "bert"}})
    proof = await run(settings.model_copy(update={"root": tmp_path}), documents, crm, monkeypatch)
    (found,) = proof.differences
    assert (found.key, found.field, found.topic, found.crm) == (("b",), "title", "BERT", "bert")


async def test_a_rejected_document_is_reported_with_its_reason(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [document("a", 2, "A")]
    await record(settings, Kind.WRITTEN, document("a", 1, "before"))
    await record(settings, Kind.REJECTED, *documents, rejected=Rejected("http 400", "name is too long"))
    crm = Crm({("a",): {"name": "before"}})
    proof = await run(settings, documents, crm, monkeypatch)
    (found,) = proof.differences
    assert found.reason == "rejected: http 400: name is too long"
    assert proof.rejected == 1 and crm.asked == []


async def test_late_delivery_is_waited_for(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [document("a", 1, "A"), document("late", 2, "L")]
    await record(settings, Kind.WRITTEN, documents[0])

    class LateCrm(Crm):
        async def read(self, keys: Sequence[Key], /) -> Mapping[Key, Fields]:
            if ("late",) not in self.records:
                await record(settings, Kind.WRITTEN, documents[1])
                self.records["late",] = {"name": "L"}
            return await super().read(keys)

    proof = await run(settings, documents, LateCrm({("a",): {"name": "A"}}), monkeypatch)
    assert (proof.differences, proof.undecided) == ([], [])


async def test_what_is_never_delivered_stays_undecided(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    proof = await run(settings, [document("a", 1, "A")], Crm({}), monkeypatch, patience=0.1)
    (left,) = proof.undecided
    assert (left.key, left.target) == (("a",), "crm") and "not delivered" in left.reason


async def test_a_crm_that_is_away_for_a_moment_is_asked_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [document("a", 1, "A")]
    await record(settings, Kind.WRITTEN, *documents)

    class Shaky(Crm):
        fails = 2

        async def read(self, keys: Sequence[Key], /) -> Mapping[Key, Fields]:
            self.fails -= 1
            if self.fails >= 0:
                raise ConnectionError("The CRM at x does not answer.")
            return await super().read(keys)

    proof = await run(settings, documents, Shaky({("a",): {"name": "A"}}), monkeypatch)
    assert (proof.differences, proof.undecided) == ([], [])


async def test_a_crm_that_stays_away_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [document("a", 1, "A")]
    await record(settings, Kind.WRITTEN, *documents)

    class Away(Crm):
        async def read(self, keys: Sequence[Key], /) -> Mapping[Key, Fields]:
            raise ConnectionError("The CRM at x does not answer.")

    proof = await run(settings, documents, Away({}), monkeypatch, patience=0.1)
    (left,) = proof.undecided
    assert "The CRM at x" in left.reason


async def test_many_keys_are_asked_for_in_pages(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readback, "_READ_AT_ONCE", 7)
    documents = [document(f"k{n}", n + 1, f"N{n}") for n in range(50)]
    await record(settings, Kind.WRITTEN, *documents)
    crm = Crm({each.key: {"name": f"N{n}"} for n, each in enumerate(documents)})
    proof = await run(settings, documents, crm, monkeypatch)
    assert (proof.crm_compared, proof.differences, sorted(set(crm.asked))) == (50, [], sorted(crm.asked))
