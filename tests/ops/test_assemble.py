from pathlib import Path

import pytest

from instep.errors import ConfigError, EnvironmentFault
from instep.settings import Settings, parse
from instep_ops.assemble import RUN_FILE, RunInfo, embedded_names, programs, resolve, running
from instep_ops.embedded import DataFolder

EMBEDDED = {
    "data": "data",
    "sources": {"shop": {"dsn": "env:STORE"}},
    "targets": {"crm": {"type": "tryton", "url": "embedded"}, "other": {"type": "tryton", "url": "env:OTHER"}},
}
RUN = RunInfo(
    kafka="127.0.0.1:1",
    registry="http://127.0.0.1:2",
    state="postgresql://x:s3cret@127.0.0.1:3/instep",
    targets={"crm": {"type": "tryton", "url": "http://127.0.0.1:4/crm", "key": "k"}},
)


def settings(root: Path) -> Settings:
    return parse(EMBEDDED, root)


def test_embedded_names_are_those_of_the_file(tmp_path: Path) -> None:
    names = embedded_names(settings(tmp_path))
    assert names == ["kafka.bootstrap", "registry.url", "state.dsn", "targets.crm.url"]


def test_resolve_puts_real_addresses_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER", "https://crm.example/x")
    resolved = resolve(settings(tmp_path), RUN)
    assert embedded_names(resolved) == []
    assert resolved.kafka.bootstrap == "127.0.0.1:1"
    assert (resolved.registry.url, resolved.registry.listen) == ("http://127.0.0.1:2", "127.0.0.1:2")
    assert resolved.state.dsn.reveal() == RUN.state
    assert (resolved.targets["crm"].url, resolved.targets["crm"].key.reveal()) == ("http://127.0.0.1:4/crm", "k")
    assert resolved.targets["other"].url == "https://crm.example/x"
    assert resolved.sources == settings(tmp_path).sources
    assert resolved.root == tmp_path


def test_resolve_without_a_run_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match=r"not running.*kafka\.bootstrap.*`instep up`"):
        resolve(settings(tmp_path), None)


def test_resolve_with_an_older_run_names_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER", "https://crm.example/x")
    with pytest.raises(ConfigError, match=r"targets\.crm\.url"):
        resolve(settings(tmp_path), RUN.model_copy(update={"targets": {}}))


def test_nothing_embedded_needs_no_run(tmp_path: Path) -> None:
    own = parse(
        {
            "sources": {"shop": {"dsn": "x"}},
            "kafka": {"bootstrap": "k:9092"},
            "registry": {"url": "http://r:8081"},
            "state": {"dsn": "y"},
        },
        tmp_path,
    )
    assert resolve(own, None) == own


def test_run_info_is_private_and_read_only_while_someone_holds_the_folder(tmp_path: Path) -> None:
    project = settings(tmp_path)
    folder = DataFolder(project.data_dir)
    folder.acquire()
    RUN.write(project.data_dir)
    assert (project.data_dir / RUN_FILE).stat().st_mode & 0o777 == 0o600
    assert running(project) == RUN
    folder.release()
    assert running(project) is None  # as after a kill: the file is still there, its writer is not


def test_a_damaged_run_info_is_told(tmp_path: Path) -> None:
    project = settings(tmp_path)
    folder = DataFolder(project.data_dir)
    folder.acquire()
    (project.data_dir / RUN_FILE).write_text("{")
    with pytest.raises(EnvironmentFault, match=r"run\.json"):
        running(project)
    folder.release()


def test_no_data_folder_means_nothing_runs(tmp_path: Path) -> None:
    assert running(settings(tmp_path)) is None


def test_agents_run_where_there_are_some(tmp_path: Path) -> None:
    project = settings(tmp_path).model_copy(update={"root": tmp_path})
    assert "agents" not in [each.name for each in programs(project, tmp_path)]
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "low.py").touch()
    assert programs(project, tmp_path)[-1].name == "agents"


def test_programs_start_upstream_first(tmp_path: Path) -> None:
    made = programs(settings(tmp_path), tmp_path)
    assert [each.name for each in made] == ["registry", "capture:shop", "worker:shop", "deliver:crm", "deliver:other"]
    assert made[1].command[-4:] == ("capture", "shop", "--project", str(tmp_path))


def test_a_registry_elsewhere_is_not_started(tmp_path: Path) -> None:
    project = parse(EMBEDDED | {"registry": {"url": "http://r:8081"}}, tmp_path)
    assert "registry" not in [each.name for each in programs(project, tmp_path)]
