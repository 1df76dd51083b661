"""`instep schema`: a registry's subjects as a person looks at them and changes them. Blocking."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instep.errors import ConfigError
from instep.settings import Settings
from instep_schemas.administration import EVERYWHERE, RegistryAdmin
from instep_schemas.bundle import Bundle, SubjectVersion, read
from instep_schemas.columns import NO_DEFAULT, row_of
from instep_schemas.compatibility import SchemaFault, parse
from instep_schemas.evolution import Change, changes


def administer(settings: Settings) -> RegistryAdmin:
    """A client of the project's registry."""
    return RegistryAdmin.of(settings.registry)


def listed(admin: RegistryAdmin, prefix: str = "", deleted: bool = False) -> list[dict[str, Any]]:
    """Subjects with their newest version, and the level that holds."""
    by_subject: dict[str, list[SubjectVersion]] = {}
    for version in admin.everything(prefix or EVERYWHERE, deleted=deleted):
        by_subject.setdefault(version.subject, []).append(version)
    above = admin.config().get("compatibilityLevel", "BACKWARD")
    return [
        {
            "subject": subject,
            "versions": [each.version for each in versions],
            "id": versions[-1].id,
            "guid": versions[-1].guid,
            "level": admin.config(subject).get("compatibilityLevel", above),
            "deleted": all(each.deleted for each in versions),
        }
        for subject, versions in sorted(by_subject.items())
    ]


def shown(admin: RegistryAdmin, version: SubjectVersion) -> dict[str, Any]:
    """One version with its columns."""
    return {
        "subject": version.subject,
        "level": admin.level(version.subject),
        **version.to_dict(),
        "schema": json.loads(version.schema),
        "columns": columns(admin.resolved(version)),
    }


def columns(text: str) -> list[dict[str, Any]]:
    """The row's columns; empty for a schema that is no record."""
    try:
        row = row_of(text)
    except ValueError:
        return []
    return [
        {
            "name": field.name,
            "type": field.type,
            "null": field.nullable,
            "default": None if field.default is NO_DEFAULT else json.dumps(field.default, ensure_ascii=False),
            "labels": list(field.labels),
            "tags": sorted(field.tags),
        }
        for field in row.fields.values()
    ]


@dataclass(frozen=True, slots=True)
class Difference:
    """What lies between two schemas of a subject.

    Attributes:
        subject: its name.
        old: the older one, `v3`.
        new: the newer one, `v4` or a file's name.
        changes: column by column.
        level: of the subject.
        refused: the registry's reasons why the newer one may not follow; empty when it may.
    """

    subject: str
    old: str
    new: str
    changes: tuple[Change, ...]
    level: str
    refused: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Allowed by the level, and without a danger that no level sees."""
        return not self.refused and not any(each.danger for each in self.changes)

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        shown = {name: getattr(self, name) for name in ("subject", "old", "new", "level", "ok")}
        return shown | {"refused": list(self.refused), "changes": [each.to_dict() for each in self.changes]}

    def lines(self) -> list[str]:
        """As a person reads it."""
        told = [f"{self.subject}: {self.old} → {self.new}, level {self.level}"]
        told += [f"  refused: {each}" for each in self.refused]
        told += [line for each in self.changes for line in change_lines(each)]
        return told if len(told) > 1 else [*told, "  no difference in the columns"]


def change_lines(change: Change, indent: str = "  ") -> list[str]:
    """A change as a person reads it: danger first, then why and what to do."""
    lines = [f"{indent}{'DANGER ' if change.danger else ''}{change}; allowed up to {change.level}"]
    if change.why:
        lines.append(f"{indent}    {change.why[:1].upper()}{change.why[1:]}.")
    if change.rewrite:
        lines.append(f"{indent}    Instead: {change.rewrite}")
    return lines


def difference(admin: RegistryAdmin, subject: str, old: int | None, new: int | None) -> Difference:
    """Compare two versions; by default the newest with the one before it.

    Raises:
        ConfigError: the subject has no two versions.
        RegistryError, ConnectionError: the registry refuses, or does not answer.
    """
    newer = admin.version(subject, new, deleted=True)
    if old is None:
        earlier = [each.version for each in admin.versions(subject, deleted=True) if each.version < newer.version]
        if not earlier:
            raise ConfigError(
                f"{subject} v{newer.version} has no version before it.", "Name the two with --from and --to."
            )
        old = earlier[-1]
    older = admin.version(subject, old, deleted=True)
    found = changes(admin.resolved(older), admin.resolved(newer))
    names = f"v{older.version}", f"v{newer.version}"
    return Difference(subject, *names, tuple(found), admin.level(subject))


def examined(admin: RegistryAdmin, subject: str, file: Path) -> Difference:
    """Say whether a file's schema may follow in the subject, and what it would do.

    Raises:
        ConfigError: no file, or no Avro schema.
        RegistryError, ConnectionError: the registry refuses, or does not answer.
    """
    text = schema_in(file)
    refused = admin.check(subject, text)
    versions = admin.versions(subject)
    found = changes(admin.resolved(versions[-1]), text) if versions else []
    old = f"v{versions[-1].version}" if versions else "nothing"
    return Difference(subject, old, file.name, tuple(found), admin.level(subject), tuple(refused))


def schema_in(file: Path) -> str:
    """A file's schema text.

    Raises:
        ConfigError: no such file, or it holds no Avro schema.
    """
    text = text_of(file)
    try:
        parse(text)
    except SchemaFault as exc:
        raise ConfigError(f"{file} is no Avro schema: {exc}.", "Correct it.") from None
    return text


def registered(admin: RegistryAdmin, subject: str, file: Path) -> SubjectVersion:
    """Register a file's schema; gives the version it has now.

    Raises as `examined`.
    """
    given = admin.register(subject, schema_in(file))
    return next(each for each in reversed(admin.versions(subject)) if each.id == given)


def delete(admin: RegistryAdmin, subject: str, number: int | None, permanent: bool) -> list[int]:
    """Delete versions; for good: softly first, where that was not done yet.

    Raises as `RegistryAdmin.delete`.
    """
    if permanent and any(number in (None, each.version) for each in admin.versions(subject)):
        admin.delete(subject, number)
    return admin.delete(subject, number, permanent=permanent)


def export(admin: RegistryAdmin, file: Path | None, prefix: str) -> Bundle:
    """Write the registry's content to a file.

    Raises:
        ConfigError: the file cannot be written.
        RegistryError, ConnectionError: the registry refuses, or does not answer.
    """
    bundle = admin.export(prefix or EVERYWHERE)
    if file is not None:
        write(file, bundle.text())
    return bundle


def write(file: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        ConfigError: it cannot be written.
    """
    part = file.with_name(f"{file.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(file)
    except OSError as exc:
        raise ConfigError(f"{file} cannot be written: {exc.strerror}.") from None


def bundle_in(file: Path) -> Bundle:
    """Read an exported file or a lock.

    Raises:
        ConfigError: it cannot be read.
        RegistryError: it is damaged.
    """
    return read(text_of(file), file.name)


def text_of(file: Path) -> str:
    """A file's text.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{file} cannot be read: {exc}.") from None


def restore(admin: RegistryAdmin, file: Path, told: Callable[[int, int], None]) -> Sequence[SubjectVersion]:
    """Bring a file's schemas into the registry with their ids; gives those that were not there.

    Raises as `bundle_in` and `RegistryAdmin.restore`.
    """
    return admin.restore(bundle_in(file), told)
