from pathlib import Path

from instep.flowfile import load_all
from instep.settings import EMBEDDED
from instep_ops.demo.project import SOURCE, TARGET, write_project


def test_the_project_is_an_ordinary_one_in_its_data_folder(tmp_path: Path) -> None:
    settings = write_project(tmp_path, "tryton")
    assert settings.data_dir == tmp_path
    assert settings.sources[SOURCE].dsn == EMBEDDED
    assert settings.targets[TARGET].type == "tryton"
    assert {flow.target for flow in load_all(settings.flows_dir).values()} == {TARGET}


def test_without_a_target_documents_go_to_topics_only(tmp_path: Path) -> None:
    write_project(tmp_path, "tryton")
    settings = write_project(tmp_path, "none")
    assert not settings.targets
    flows = load_all(settings.flows_dir)
    assert {flow.target for flow in flows.values()} == {None}
    assert flows["product_card"].key == ("sku",)
