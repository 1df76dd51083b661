from pathlib import Path

import pytest

from instep.errors import FlowError
from instep.flowfile import load_all, parse
from instep.protocols import Delete
from instep.timing import Interval, Schedule

CARD = """
/* instep
target = "crm"          object = "product.product"
key    = "sku"          delete = "deactivate"
fields = ["name", "price"]   source = "shop"
*/
SELECT p.sku, p.name FROM products p;
"""


def test_a_flow_file_is_a_header_and_one_select() -> None:
    flow = parse("card", CARD)
    assert (flow.target, flow.object, flow.key, flow.delete) == ("crm", "product.product", ("sku",), Delete.DEACTIVATE)
    assert flow.fields == ("name", "price")
    assert flow.source == "shop"
    assert flow.sql == "SELECT p.sku, p.name FROM products p"


def test_a_key_may_have_several_columns() -> None:
    assert parse("f", '/* instep\nkey = ["a", "b"]\n*/ SELECT 1').key == ("a", "b")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("SELECT 1", "no header"),
        ("/* instep */ SELECT 1", "key"),
        ('/* instep\nkey = "a"\ntaget = "crm"\n*/ SELECT 1', "taget"),
        ('/* instep\nkey = "a"\ndelete = "burn"\n*/ SELECT 1', "delete"),
        ("/* instep\nkey = \n*/ SELECT 1", "not valid TOML"),
        ('/* instep\nkey = "a"\nname = "b"\n*/ SELECT 1', "name"),
        ('/* instep\nkey = "a"\ntarget = "crm"\nfields = "b"\ntransform = "cards"\n*/ SELECT 1', "transform"),
        ('/* instep\nkey = "a"\ntarget = "crm"\ntransform = "cards:make"\n*/ SELECT 1', "needs target, and fields"),
        ('/* instep\nkey = "a"\nschedule = "0 25 * * *"\n*/ SELECT 1', "'0 25 \\* \\* \\*' is no schedule: bad hour"),
        ('/* instep\nkey = "a"\nschedule = "@daily"\n*/ SELECT 1', "five fields"),
        ('/* instep\nkey = "a"\nschedule = "*/15 * * * *"\n*/ SELECT 1', "ends the comment.*0-59/15"),
        ('/* instep\nkey = "a"\nschedule = "0 2 * * *"\ntime_zone = "Mars"\n*/ SELECT 1', "no time zone"),
        ('/* instep\nkey = "a"\ntime_zone = "UTC"\n*/ SELECT 1', "time_zone needs schedule"),
        ('/* instep\nkey = "a"\nmin_interval = "5"\n*/ SELECT 1', "'5' is no interval"),
        ('/* instep\nkey = "a"\nmin_interval = "0s"\n*/ SELECT 1', "between 1ms and 366d"),
        ('/* instep\nkey = "a"\nschedule = "0 2 * * *" min_interval = "5s"\n*/ SELECT 1', "choose one"),
    ],
)
def test_a_wrong_header_is_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(FlowError, match=named) as refused:
        parse("f", text)
    assert refused.value.code == "HEADER"


def test_when_documents_come() -> None:
    assert parse("f", '/* instep\nkey = "a"\n*/ SELECT 1').timing is None
    nightly = '/* instep\nkey = "a"   schedule = "0 2 * * *"   time_zone = "Europe/Berlin"\n*/ SELECT 1'
    assert parse("f", nightly).timing == Schedule("0 2 * * *", "Europe/Berlin")
    assert parse("f", '/* instep\nkey = "a"   min_interval = "5s"\n*/ SELECT 1').timing == Interval(5_000_000)


def test_a_folder_of_flows_is_read_by_name(tmp_path: Path) -> None:
    (tmp_path / "b.sql").write_text(CARD)
    (tmp_path / "a.sql").write_text(CARD)
    (tmp_path / "notes.txt").write_text("not a flow")
    assert list(load_all(tmp_path)) == ["a", "b"]


def test_two_flows_whose_names_make_one_topic_are_refused(tmp_path: Path) -> None:
    for name in ("a b", "a_b"):
        (tmp_path / f"{name}.sql").write_text(CARD)
    with pytest.raises(FlowError, match="'a b' and 'a_b' would both write the topic"):
        load_all(tmp_path)
