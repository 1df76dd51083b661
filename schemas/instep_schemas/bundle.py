"""Everything a schema registry knows, as one JSON file: ids, versions and GUIDs kept (pure).

The same form is `schemas.lock`. A GUID is made from the schema itself, so a text that was changed by hand does not fit
its GUID any more: `read` refuses it. Ids are whatever the registry gave out, so they must be written down: a topic's
records name their schema by nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from instep.errors import RegistryError
from instep_schemas.registry.avro_text import Content, Reference
from instep_schemas.registry.subjects import context_of

FORMAT: Final = 1
_MEND: Final = "Take it from version control or a backup, or export it again."


@dataclass(frozen=True, slots=True)
class SubjectVersion:
    """One schema under one subject.

    Attributes:
        subject: qualified by its context, unless that is the default one.
        version: 1, 2, …
        id: of the schema in its context.
        guid: of the schema in every registry.
        schema: canonical text.
        references: `{name, subject, version}` each.
        metadata: as registered.
        rule_set: as registered.
        deleted: softly deleted: still readable by id.
    """

    subject: str
    version: int
    id: int
    guid: str
    schema: str
    references: tuple[Mapping[str, Any], ...] = ()
    metadata: Mapping[str, Any] | None = None
    rule_set: Mapping[str, Any] | None = None
    deleted: bool = False

    @property
    def place(self) -> tuple[str, int]:
        """Subject and version."""
        return self.subject, self.version

    def body(self) -> dict[str, Any]:
        """What a registration sends; id and version are taken in mode IMPORT only."""
        optional = {"references": list(self.references), "metadata": self.metadata, "ruleSet": self.rule_set}
        return {"schema": self.schema, **{name: value for name, value in optional.items() if value}}

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the file."""
        shown: dict[str, Any] = {"version": self.version, "id": self.id, "guid": self.guid, **self.body()}
        return shown | ({"deleted": True} if self.deleted else {})


def version_of(subject: str, raw: Mapping[str, Any]) -> SubjectVersion:
    """Read one version from a registry's answer or from a file; a GUID that is not given is made.

    Raises:
        KeyError, TypeError, ValueError: not of that form.
    """
    references = tuple(raw.get("references") or ())
    content = Content(
        str(raw["schema"]),
        tuple(Reference(each["name"], each["subject"], int(each["version"])) for each in references),
        raw.get("metadata") or None,
        raw.get("ruleSet") or None,
    )
    return SubjectVersion(
        subject, int(raw["version"]), int(raw["id"]), str(raw.get("guid") or content.guid), content.text, references,
        content.metadata, content.rule_set, bool(raw.get("deleted")),
    )  # fmt: skip


def guid_of(version: SubjectVersion) -> str:
    """The GUID that its content gives."""
    return version_of(version.subject, version.to_dict() | {"guid": ""}).guid


@dataclass(frozen=True, slots=True)
class Bundle:
    """A registry's content.

    Attributes:
        versions: every schema, softly deleted ones included.
        configs: configuration by subject (empty text: the global one).
        modes: mode by subject (empty text: the global one).
    """

    versions: tuple[SubjectVersion, ...] = ()
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    modes: Mapping[str, str] = field(default_factory=dict)

    def subjects(self) -> list[str]:
        """Every subject with a version, in order."""
        return sorted({version.subject for version in self.versions})

    def of(self, subject: str) -> list[SubjectVersion]:
        """The subject's versions, oldest first."""
        return sorted((each for each in self.versions if each.subject == subject), key=lambda each: each.version)

    def latest(self, subject: str) -> SubjectVersion | None:
        """The newest version that is not deleted."""
        return next((each for each in reversed(self.of(subject)) if not each.deleted), None)

    def level(self, subject: str) -> str:
        """The compatibility level that holds for the subject."""
        for scope in (subject, ""):
            found = self.configs.get(scope, {}).get("compatibilityLevel")
            if found:
                return str(found)
        return "BACKWARD"

    def text(self) -> str:
        """The file: one line per version, so that version control shows what changed."""
        lines = [f'"format": {FORMAT}']
        lines += [f"{json.dumps(name)}: {_line(value)}" for name, value in _scopes(self.configs, self.modes).items()]
        subjects = [_subject_text(subject, self.of(subject)) for subject in self.subjects()]
        lines.append('"subjects": {' + ",".join(f"\n    {each}" for each in subjects) + "\n  }")
        return "{\n  " + ",\n  ".join(lines) + "\n}\n"

    def conflicts(self, held: Iterable[SubjectVersion]) -> list[str]:
        """What a registry already holds that this bundle cannot stand beside: sentences for people."""
        held = list(held)
        by_place = {each.place: each for each in held}
        by_id = {(context_of(each.subject), each.id): each for each in held}
        found = []
        for mine in self.versions:
            other = by_place.get(mine.place) or by_id.get((context_of(mine.subject), mine.id))
            if other is not None and (other.guid != mine.guid or (other.place == mine.place and other.id != mine.id)):
                found.append(
                    f"{mine.subject} v{mine.version} (id {mine.id}) meets {other.subject} v{other.version} "
                    f"(id {other.id}), which is another schema"
                )
        return found

    def missing(self, held: Iterable[SubjectVersion]) -> list[SubjectVersion]:
        """The versions that a registry lacks, those that others reference first."""
        deleted = {each.place: each.deleted for each in held}
        # one that was softly deleted there meanwhile comes back
        return [
            each
            for each in self._in_order()
            if deleted.get(each.place, True) > each.deleted or each.place not in deleted
        ]

    def _in_order(self) -> list[SubjectVersion]:
        by_place = {each.place: each for each in self.versions}
        done: dict[tuple[str, int], SubjectVersion] = {}
        # an explicit stack: chains of references may be longer than Python's
        stack = sorted(self.versions, key=lambda each: (each.id, each.place), reverse=True)
        entered = set()
        while stack:
            version = stack[-1]
            places = [(str(each["subject"]), int(each["version"])) for each in version.references]
            wanted = [by_place[place] for place in places if place in by_place and place not in done]
            if version.place not in done and wanted and version.place not in entered:
                entered.add(version.place)
                stack += wanted
                continue
            done.setdefault(version.place, version)
            stack.pop()
        return list(done.values())


def _scopes(configs: Mapping[str, Any], modes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: dict(sorted(each.items())) for name, each in (("configs", configs), ("modes", modes)) if each}


def _subject_text(subject: str, versions: Iterable[SubjectVersion]) -> str:
    return f"{json.dumps(subject)}: [" + ",".join(f"\n      {_line(each.to_dict())}" for each in versions) + "\n    ]"


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "))


def read(text: str, origin: str) -> Bundle:
    """Read the file.

    Args:
        text: as `Bundle.text` gave it.
        origin: the file's name, for messages.

    Raises:
        RegistryError: not such a file, two schemas share an id, or a schema does not fit its GUID.
    """
    try:
        raw = json.loads(text)
        if raw["format"] != FORMAT:
            raise RegistryError(f"{origin} has format {raw['format']}, this version reads {FORMAT}.", "Update Instep.")
        versions = tuple(version_of(name, each) for name, all_of_it in raw["subjects"].items() for each in all_of_it)
        bundle = Bundle(versions, raw.get("configs") or {}, raw.get("modes") or {})
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise RegistryError(f"{origin} holds no exported schemas ({type(exc).__name__}: {exc}).", _MEND) from None
    for fault in _faults(bundle):
        raise RegistryError(f"{origin}: {fault}.", _MEND)
    return bundle


def _faults(bundle: Bundle) -> Iterator[str]:
    ids: dict[tuple[str, int], str] = {}
    places = set()
    for each in bundle.versions:
        if guid_of(each) != each.guid:
            yield f"the schema of {each.subject} v{each.version} does not fit its GUID {each.guid}: it was changed"
        if ids.setdefault((context_of(each.subject), each.id), each.guid) != each.guid:
            yield f"two different schemas have the id {each.id}"
        if each.place in places:
            yield f"{each.subject} v{each.version} stands twice"
        places.add(each.place)
