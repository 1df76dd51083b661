"""May this content be the next version? Levels, groups, reserved fields; the answers name the column (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from instep_schemas.compatibility import Fault, Level, SchemaFault, check, parse_leniently
from instep_schemas.registry import refusals
from instep_schemas.registry.avro_text import Content
from instep_schemas.registry.store import Store, Version, level_of

RESERVED: Final = "confluent:reserved"
"""Metadata property: names of fields that no version may have, separated by commas."""
_SHOWN: Final = 10_240
"""So many characters of an old schema are shown in a message, at most."""


def check_next(store: Store, subject: str, content: Content, *, strict: bool) -> None:
    """Refuse a content that may not follow the versions there are.

    Raises:
        Refusal: 409, 42201.
    """
    told = _reserved_faults(store, subject, content)
    level = level_of(store.effective_config(subject))
    versions = comparable(store, subject, content)
    told += explained(store, faults_against(store, subject, content, level, versions, strict=strict), versions)
    if told:
        raise refusals.incompatible(subject, [*told, _settings(store, subject, level)])


def comparable(store: Store, subject: str, content: Content) -> list[Version]:
    """Live versions a new one must fit; with a compatibility group, those of the same group."""
    versions = store.versions(subject)
    group = store.effective_config(subject).get("compatibilityGroup")
    if not group:
        return versions
    mine = _property(content, group)
    return [version for version in versions if _property(version.content, group) == mine]


def faults_against(
    store: Store, subject: str, content: Content, level: Level, versions: Sequence[Version], *, strict: bool
) -> list[Fault]:
    """Check a content against versions, oldest first.

    Raises:
        Refusal: 42201.
    """
    try:
        olds = [(v.version, store.resolved_text(v.content, v.subject)) for v in versions]
        return check(level, store.resolved_text(content, subject), olds, strict=strict)
    except SchemaFault as exc:
        raise refusals.invalid_schema(str(exc)) from exc


def explained(store: Store, faults: Sequence[Fault], versions: Sequence[Version]) -> list[str]:
    """The messages of a refusal, in the form that tools take apart; the descriptions are for people."""
    told = [f"{{errorType:'{fault.kind}', description:'{fault}', additionalInfo:'{fault.column}'}}" for fault in faults]
    if not faults:
        return []
    newest = max(fault.version for fault in faults)
    old = next((v.content.text for v in versions if v.version == newest), "")
    shown = f"'{old}'" if len(old) <= _SHOWN else f"<truncated> '{old[:_SHOWN]}...'"
    return [*told, f"{{oldSchemaVersion: {newest}}}", f"{{oldSchema: {shown}}}"]


def _settings(store: Store, subject: str, level: Level) -> str:
    validate = str(bool(store.effective_config(subject).get("validateFields"))).lower()
    return f"{{validateFields: '{validate}', compatibility: '{level}'}}"


def compatibility_answer(
    store: Store, subject: str, content: Content, number: int | None, *, strict: bool, verbose: bool
) -> dict[str, Any]:
    """Answer a compatibility check; against one version (-1: the newest), or what the level says with None.

    Raises:
        Refusal: 40402, 42201.
    """
    if number is None or number == -1:
        versions = comparable(store, subject, content)[-1 if number else 0 :]
    else:
        versions = [v for v in store.versions(subject) if v.version == number]
    level = level_of(store.effective_config(subject))
    faults = faults_against(store, subject, content, level, versions, strict=strict)
    told = [*_reserved_faults(store, subject, content), *explained(store, faults, versions)]
    answer: dict[str, Any] = {"is_compatible": not told}
    if verbose:
        answer["messages"] = [*told, _settings(store, subject, level)] if told else []
    return answer


def _reserved_faults(store: Store, subject: str, content: Content) -> list[str]:
    """With `validateFields`: a field named in the metadata as reserved is not used, and stays reserved."""
    if not store.effective_config(subject).get("validateFields"):
        return []
    last, mine = store.latest(subject), _reserved(content)
    given_up = _reserved(last.content) - mine if last is not None else set()
    schema = parse_leniently(store.resolved_text(content, subject))
    used = mine & {field.name for field in getattr(schema, "fields", ())}
    return [
        *(f"The new schema has reserved field {name} removed from its metadata" for name in sorted(given_up)),
        *(f"The new schema has field {name}, which is reserved" for name in sorted(used)),
    ]


def _reserved(content: Content) -> set[str]:
    return {name.strip() for name in str(_property(content, RESERVED) or "").split(",") if name.strip()}


def _property(content: Content, name: str) -> Any:
    return ((content.metadata or {}).get("properties") or {}).get(name)
