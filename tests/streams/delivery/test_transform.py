"""A flow's function between its topic and its target: applied live and by replayed dead letters; its faults wait."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.connectors.crm.contract import Contract
from tests.fixtures.postgres import PostgresForTests
from tests.streams.delivery.flowtopic import FlowTopic
from tests.streams.delivery.parts import document, until
from tests.streams.delivery.test_process import CARD, card, crm, delivering, settled  # noqa: F401  # crm: a fixture

from instep.errors import FlowError
from instep.flowfile import Flow
from instep.settings import KafkaSettings, Settings, TargetSettings
from instep_streams.delivery import deadletters
from instep_streams.delivery.retry import retry
from instep_streams.delivery.transform import Untransformable, transformed, transforms

TWICE = "def make(row):\n    return {'v': row['v'] * 2, 'even': row['v'] % 2 == 0}\n"
INVERSE = "def make(row):\n    return {'v': 10 // row['v'], 'even': False}\n"


def flow(transform: str) -> Flow:
    return Flow(name="card", sql="", key=("k",), target="crm", fields=("v",), transform=transform)


def load(folder: Path, transform: str = "cards:make") -> Any:
    return transforms(Settings(root=folder, sources={}), {"card": flow(transform)})["card"]


@pytest.fixture
def cards(tmp_path: Path, kafka: KafkaSettings, registry: str, postgres: PostgresForTests) -> Iterator[FlowTopic]:
    header = 'delete = "delete"\nfields = ["v", "even"]\ntransform = "cards:make"'
    targets = {"crm": TargetSettings(type="contract")}
    topic = FlowTopic(
        tmp_path, kafka, registry, postgres.database(), targets, header=header, columns=CARD, key="k"
    )  # fmt: skip
    yield topic
    topic.registry.close()


async def test_the_target_gets_what_the_function_gives(
    cards: FlowTopic,
    crm: Contract,  # noqa: F811  # the fixture above
    tmp_path: Path,
) -> None:
    (tmp_path / "cards.py").write_text(INVERSE)
    await cards.emit(card(cards, "a", 2), card(cards, "gone", 1), cards.record("zero", {"k": "zero", "v": 0}, 1))
    async with delivering(cards):
        await until(lambda: settled(cards, 3))
        await cards.emit(cards.record("gone", None, 2))
        await until(lambda: settled(cards, 4))
    assert crm.records == {"a": {"v": 5, "even": False}}
    (letter,) = await deadletters.list_open(cards.settings, "crm")
    assert (letter.key, letter.code) == (("zero",), "TRANSFORM")
    assert letter.message.startswith("cards:make raises ZeroDivisionError")

    (tmp_path / "cards.py").write_text(TWICE)  # mended: the letter is delivered with it
    assert await retry(cards.settings, "crm") == {"written": 1}
    assert crm.records["zero"] == {"v": 0, "even": True}
    assert await deadletters.list_open(cards.settings, "crm") == []


@pytest.mark.parametrize(
    ("transform", "told"),
    [
        ("cards:none", "no such function"),
        ("nowhere_at_all:make", "ModuleNotFoundError"),
        ("broken:make", "SyntaxError"),
    ],
)
def test_a_function_that_is_not_there_is_refused(transform: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "cards.py").write_text(TWICE)
    (tmp_path / "broken.py").write_text("def make(:\n")
    with pytest.raises(FlowError, match=told) as refused:
        load(tmp_path, transform)
    assert refused.value.code == "TRANSFORM"


@pytest.mark.parametrize(
    ("body", "told"),
    [("None", "gives NoneType, not a dict"), ("{'w': 1}", "does not give the column 'v'"), ("{}['x']", "KeyError")],
)
def test_what_a_function_must_give(body: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "cards.py").write_text(f"def make(row):\n    return {body}\n")
    with pytest.raises(Untransformable, match=told):
        transformed(document("a", 1, {"v": 1}), flow("cards:make"), load(tmp_path))


def test_the_document_itself_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "cards.py").write_text("def make(row):\n    row['v'].append(2)\n    return row\n")
    original = replace(document("a", 1, {}), fields={"v": [1]})
    made = transformed(original, flow("cards:make"), load(tmp_path))
    assert (made.fields, original.fields) == ({"v": [1, 2]}, {"v": [1]})
    gone = document("a", 2)
    assert transformed(gone, flow("cards:make"), load(tmp_path)) is gone
