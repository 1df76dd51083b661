"""`instep flow explain` on a real store: the graph in words, as Mermaid and as SVG; the plans."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from tests.ops.test_flows import GOOD, project, write  # noqa: F401  # a fixture

from instep_ops.cli.app import run


def test_the_graph_leads_from_every_table_to_the_key(
    project: Path,  # noqa: F811  # the fixture above
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(project, "card", GOOD)
    drawing = project / "card.svg"
    assert run(["flow", "explain", "card", "--json", "--svg", str(drawing), "--project", str(project)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["key"] == ["sku"] and told["planned_on"] == "store"
    assert told["arrows"] == [
        {"table": "public.products", "to": "key", "on": "sku"},
        {"table": "public.levels", "to": "public.products", "on": "product_id = id"},
    ]
    assert told["tables"]["public.levels"] == {
        "columns": ["on_hand", "product_id"], "ways": ["public.levels → public.products → key (sku)"],
    }  # fmt: skip
    assert '-- "product_id = id" -->' in told["mermaid"]
    assert "Index" in told["plans"]["keys"] and "on products" in told["plans"]["whole"]
    texts = {each.text for each in ET.parse(drawing).iter("{http://www.w3.org/2000/svg}text")}
    assert {"flow card", "public.levels", "on_hand", "product_id = id", "sku"} <= texts


def test_people_read_it_as_text_and_a_refusal_as_one_line(
    project: Path,  # noqa: F811  # the fixture above
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(project, "card", GOOD)
    assert run(["flow", "explain", "--project", str(project)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("flowchart LR") and "Evaluating some keys (store" in shown
    write(project, "card", "SELECT sku, now() AS at FROM products")
    assert run(["flow", "explain", "--project", str(project)]) == 2
    assert "CURRENT_TIMESTAMP" in capsys.readouterr().err


def test_what_is_no_select_is_told_without_a_store(
    project: Path,  # noqa: F811  # the fixture above
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLOWS_STORE", "host=127.0.0.1 port=1 dbname=none")
    write(project, "card", "SELECT sku FROM (products")
    assert run(["flow", "check", "--project", str(project)]) == 2
    assert capsys.readouterr().out.startswith("FAILED card: [SYNTAX]")
