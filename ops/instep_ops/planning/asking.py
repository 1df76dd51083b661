"""The gate's question, put together from a project and a person's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from instep.errors import ConfigError
from instep.flowfile import Flow, load_all
from instep.settings import Settings, load
from instep_connectors.postgres.session import connect
from instep_ops.cli.options import pick
from instep_ops.flows import with_stores
from instep_ops.planning.gate import Question, judge, shapes_after
from instep_ops.planning.locking import Held, against_lock
from instep_ops.planning.scratch import Connection
from instep_ops.planning.state import look
from instep_ops.planning.storeguard import allow as allow_changes
from instep_ops.planning.storeguard import guarded, install, installed, remove
from instep_ops.planning.subjects import bundle_in
from instep_ops.planning.verdict import GateReport
from instep_schemas.bundle import Bundle
from instep_schemas.compatibility import Level

LOCK: Final = "schemas.lock"


def ask(
    project: Path,
    migrations: Sequence[Path],
    source: str | None,
    schema: Path | None,
    server: str | None,
    level: str | None,
    accepted: frozenset[str],
    *,
    allow: bool = False,
) -> tuple[GateReport, list[str]]:
    """Judge migrations; needs no running project, and with `schema` not even the store.

    With `allow`, when they may run, the store's guard is told; gives the tables that it then lets change, too.

    Raises:
        ConfigError: a word or a file is wrong, or the SQL fails.
        SourceError, ConnectionError: the store refuses, or does not answer, or, with `allow`, has no guard.
        EnvironmentFault: the embedded PostgreSQL is not installed.
    """
    question = _question(project, migrations, source, schema, server, level, accepted)
    report = judge(question)
    if not allow or not report.ok:
        return report, []
    with closing(_store(question)) as store:
        names = guarded(store) if installed(store) else []
        after = shapes_after(question, names) if names else {}
        return report, allow_changes(store, after)


def guard_store(project: Path, source: str | None, away: bool) -> int:
    """Put the guard over the captured tables of a store, or take it away; gives how many tables it holds.

    Raises as `ask`.
    """
    question = _question(project, (), source, None, None, None, frozenset())
    with closing(_store(question)) as store:
        if away:
            remove(store)
            return 0
        found = look(store, question.settings.sources[question.source].tables, {})
        return install(store, [relation.table for relation in found.relations.values()])


def _store(question: Question) -> Connection:
    return connect(question.settings.sources[question.source].dsn.reveal(), "instep schema guard")


def ask_lock(
    project: Path, source: str | None, schema: Path | None, server: str | None, level: str | None
) -> list[Held]:
    """Compare what the store and the flows need with `schemas.lock`.

    Raises as `ask`; ConfigError also when there is no lock.
    """
    question = _question(project, (), source, schema, server, level, frozenset())
    if not (question.settings.root / LOCK).exists():
        raise ConfigError(f"There is no {question.settings.root / LOCK}.", "`instep apply` writes it.")
    return against_lock(question)


def _question(
    project: Path,
    migrations: Sequence[Path],
    source: str | None,
    schema: Path | None,
    server: str | None,
    level: str | None,
    accepted: frozenset[str],
) -> Question:
    settings = load(project)
    name = pick(settings.sources, source, "source")
    if schema is None:
        settings = with_stores(settings)
    flows, lock = flows_of(settings, settings.leader(name)), lock_of(settings)
    return Question(settings, name, flows, migrations, schema, server, lock, _level(level), accepted)


def flows_of(settings: Settings, source: str) -> Mapping[str, Flow]:
    """The flows that a source's worker works on: they read its tables, and those of the sources joined to it."""
    only, own = settings.leaders == [source], {source, *settings.joined(source)}
    flows = load_all(settings.flows_dir)
    return {name: flow for name, flow in flows.items() if flow.source in own or (only and not flow.source)}


def lock_of(settings: Settings) -> Bundle:
    """The project's `schemas.lock`; empty when it has none.

    Raises:
        RegistryError: it is damaged.
    """
    file = settings.root / LOCK
    return bundle_in(file) if file.exists() else Bundle()


def _level(text: str | None) -> Level | None:
    if text is None:
        return None
    try:
        return Level(text.upper())
    except ValueError:
        raise ConfigError(f"{text!r} is no compatibility level.", f"There are: {', '.join(Level)}.") from None
