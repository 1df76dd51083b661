"""What the `_schemas` topic adds up to: subjects, versions, ids, configuration, modes; and every read (pure).

Applied in offset order, a record twice in a row changes nothing. Not thread-safe: the registry's event loop owns it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from instep_schemas.compatibility import Level, SchemaFault
from instep_schemas.registry import refusals
from instep_schemas.registry.avro_text import Content, Reference, canonical, resolved
from instep_schemas.registry.entries import EntryFault, Key, Keytype, content_of
from instep_schemas.registry.subjects import DEFAULT_CONTEXT, context_of, join, matches, split
from instep_schemas.registry.subjects import canonical as canonical_subject

DEFAULT_MODE: Final = "READWRITE"
READ_ONLY: Final = ("READONLY", "READONLY_OVERRIDE")
VERSION: Final = "confluent:version"
"""Metadata property: the version that a schema was registered as, where it was asked for."""
IDS: Final = "ids"
"""Field of a NOOP value: the highest id given out in each context, so that none is given out again."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a subject.

    Attributes:
        subject: qualified.
        version: from 1.
        schema_id: id of the content in the subject's context.
        content: the schema.
        deleted: softly: hidden, but still readable by id.
        written_ms: when its record was written, milliseconds since 1970.
    """

    subject: str
    version: int
    schema_id: int
    content: Content
    deleted: bool
    written_ms: int

    @property
    def place(self) -> tuple[str, int]:
        """Subject and version."""
        return self.subject, self.version


class Store:
    """State of one registry."""

    def __init__(self) -> None:
        self._versions: dict[str, dict[int, Version]] = {}
        self._holders: dict[tuple[str, int], dict[tuple[str, int], Version]] = defaultdict(dict)
        self._ids: dict[str, dict[str, int]] = defaultdict(dict)
        self._referrers: dict[tuple[str, int], set[tuple[str, int]]] = defaultdict(set)
        self._highest: dict[str, int] = defaultdict(int)
        self._contexts: set[str] = set()
        self._config: dict[str | None, dict[str, Any]] = {}
        self._mode: dict[str | None, str] = {}

    def copy(self) -> Store:
        """The same state, which goes its own way from here."""
        other = Store()
        other._versions = {subject: dict(versions) for subject, versions in self._versions.items()}
        other._holders.update((place, dict(holders)) for place, holders in self._holders.items())
        other._ids.update((context, dict(ids)) for context, ids in self._ids.items())
        other._referrers.update((place, set(referrers)) for place, referrers in self._referrers.items())
        other._highest.update(self._highest)
        other._contexts, other._config, other._mode = set(self._contexts), dict(self._config), dict(self._mode)
        return other

    # ---- applying records -------------------------------------------------------------------------------------------

    def apply(self, key: Key, value: dict[str, Any] | None, written_ms: int = 0) -> None:
        """Take in one record.

        Raises:
            EntryFault: its value is not what its key says; nothing is changed.
        """
        if key.keytype is Keytype.SCHEMA:
            self._apply_schema(key, value, written_ms)
        elif key.keytype is Keytype.CONFIG:
            _put(self._config, _scope(key.subject), value)
        elif key.keytype is Keytype.MODE:
            _put(self._mode, _scope(key.subject), str(value["mode"]) if value and value.get("mode") else None)
        elif key.keytype is Keytype.DELETE_SUBJECT:
            self._apply_delete(value)
        elif key.keytype is Keytype.CLEAR_SUBJECT and value is not None:
            for version in list(self._versions.get(canonical_subject(str(value.get("subject"))), {}).values()):
                if version.deleted:
                    self._drop(version.place)
        elif key.keytype is Keytype.CONTEXT:
            (self._contexts.discard if value is None else self._contexts.add)(key.context)
        elif key.keytype is Keytype.NOOP:
            self._apply_highest(value)

    def _apply_schema(self, key: Key, value: dict[str, Any] | None, written_ms: int) -> None:
        place = (canonical_subject(key.subject or ""), key.version)
        if value is None:
            self._drop(place)
            return
        try:
            schema_id, deleted = int(value["id"]), bool(value.get("deleted"))
        except (KeyError, TypeError, ValueError) as exc:
            raise EntryFault(f"a SCHEMA value without a good id: {exc}") from exc
        context = context_of(place[0])
        self._highest[context] = max(self._highest[context], schema_id)  # even if the rest of it is of no use here
        if (value.get("schemaType") or "AVRO") != "AVRO":
            raise EntryFault(f"{place[0]} v{place[1]} is a {value['schemaType']} schema; only Avro is served")
        content = content_of(value)
        self._drop(place)
        self._put_version(Version(place[0], place[1], schema_id, content, deleted, written_ms))

    def _put_version(self, version: Version) -> None:
        context = context_of(version.subject)
        self._versions.setdefault(version.subject, {})[version.version] = version
        self._holders[context, version.schema_id][version.place] = version
        self._ids[context].setdefault(version.content.guid, version.schema_id)
        for reference in version.content.references:
            self._referrers[self._referee(version.subject, reference)].add(version.place)

    def _drop(self, place: tuple[str, int]) -> None:
        version = self._versions.get(place[0], {}).pop(place[1], None)
        if version is None:
            return
        if not self._versions[place[0]]:
            del self._versions[place[0]]
        context = context_of(version.subject)
        holders = self._holders[context, version.schema_id]
        del holders[place]
        if not holders:
            del self._holders[context, version.schema_id]
            if self._ids[context].get(version.content.guid) == version.schema_id:
                del self._ids[context][version.content.guid]
        for reference in version.content.references:
            self._referrers[self._referee(version.subject, reference)].discard(place)

    def _apply_delete(self, value: dict[str, Any] | None) -> None:
        if value is None:
            return
        try:
            subject, last = canonical_subject(str(value["subject"])), int(value["version"])
        except (KeyError, TypeError, ValueError) as exc:
            raise EntryFault(f"a DELETE_SUBJECT value without {exc}") from exc
        for version in list(self._versions.get(subject, {}).values()):
            if version.version <= last and not version.deleted:
                self._drop(version.place)
                self._put_version(replace(version, deleted=True))

    def _apply_highest(self, value: dict[str, Any] | None) -> None:
        for context, highest in ((value or {}).get(IDS) or {}).items():
            self._highest[context] = max(self._highest[context], int(highest))

    @staticmethod
    def _referee(subject: str, reference: Reference) -> tuple[str, int]:
        return canonical_subject(reference.subject, context_of(subject)), reference.version

    # ---- subjects and versions --------------------------------------------------------------------------------------

    def subjects(self, prefix: str = "", *, deleted: bool = False, deleted_only: bool = False) -> list[str]:
        """Subjects that begin with `prefix`, sorted; `deleted` adds the wholly soft-deleted ones."""
        return sorted(
            subject
            for subject, versions in self._versions.items()
            if matches(subject, prefix) and _wanted(all(v.deleted for v in versions.values()), deleted, deleted_only)
        )

    def versions(self, subject: str, *, deleted: bool = False, deleted_only: bool = False) -> list[Version]:
        """Versions of a subject, oldest first; empty when there is none."""
        found = self._versions.get(subject, {})
        return [found[n] for n in sorted(found) if _wanted(found[n].deleted, deleted, deleted_only)]

    def latest(self, subject: str, *, deleted: bool = False) -> Version | None:
        """The newest version."""
        return next(reversed(self.versions(subject, deleted=deleted)), None)

    def every_version(self) -> Iterator[Version]:
        """All versions of all subjects, deleted ones included, by subject and version."""
        for subject in sorted(self._versions):
            yield from self.versions(subject, deleted=True)

    def referrers(self, subject: str, version: int, *, deleted: bool = False) -> list[Version]:
        """The versions that reference this one."""
        places = sorted(self._referrers.get((subject, version), ()))
        found = (self._versions[s][v] for s, v in places)
        return [referrer for referrer in found if deleted or not referrer.deleted]

    # ---- ids --------------------------------------------------------------------------------------------------------

    def id_of(self, context: str, content: Content) -> int | None:
        """The id that a content already has in a context."""
        return self._ids.get(context, {}).get(content.guid)

    def holders(self, context: str, schema_id: int) -> list[Version]:
        """The versions with an id, deleted ones included, by subject and version."""
        found = self._holders.get((context, schema_id), {})
        return [found[place] for place in sorted(found)]

    def holders_by_guid(self, guid: str) -> list[Version]:
        """One version for each context that holds this content."""
        contexts = sorted(context for context, ids in self._ids.items() if guid in ids)
        return [self.holders(context, self._ids[context][guid])[0] for context in contexts]

    def highest_id(self, context: str = DEFAULT_CONTEXT) -> int:
        """The highest id ever given out in a context; 0: none."""
        return self._highest.get(context, 0)

    def highest_ids(self) -> dict[str, int]:
        """The same for each context."""
        return {context: highest for context, highest in sorted(self._highest.items()) if highest}

    # ---- schemas ----------------------------------------------------------------------------------------------------

    def resolved_text(self, content: Content, subject: str = "") -> str:
        """The self-contained text of a content used under a subject.

        Raises:
            SchemaFault: a referenced version does not exist.
        """
        if not content.references:
            return content.text
        texts: dict[tuple[str, int], str] = {}
        self._collect(content, subject, texts)
        return resolved(content.text, list(texts.values()))

    def _collect(self, content: Content, subject: str, texts: dict[tuple[str, int], str]) -> None:
        for reference in content.references:
            place = self._referee(subject, reference)
            if place in texts:
                continue
            version = self._versions.get(place[0], {}).get(place[1])
            if version is None:
                raise SchemaFault(f"the reference {reference.name} is to {place[0]} v{place[1]}, which does not exist")
            texts[place] = version.content.text
            self._collect(version.content, version.subject, texts)

    def find(
        self, subject: str, content: Content, *, deleted: bool = False, newest_only: bool = False
    ) -> Version | None:
        """The version with this content, else the newest one with this schema.

        Metadata and rules are compared, too, `confluent:version` only where both have it. A schema whose references
        are written out is the same schema, and so is one that another registry stored with another attribute order.
        """
        versions = self.versions(subject, deleted=deleted)[::-1]
        if newest_only:
            versions = versions[:1]
        for version in versions:
            if version.content.guid == content.guid:
                return version
        return next((v for v in versions if self._is_schema(v, content) and _fits(v, content)), None)

    def _is_schema(self, version: Version, content: Content) -> bool:
        other = version.content
        if content.references == other.references and content.text in (other.text, _canonical(other.text)):
            return True
        return bool(other.references) and not content.references and self._written_out(version) == content.text

    def _written_out(self, version: Version) -> str | None:
        try:
            return self.resolved_text(version.content, version.subject)
        except SchemaFault:
            return None

    # ---- configuration, mode, contexts ------------------------------------------------------------------------------

    def config(self, subject: str | None) -> dict[str, Any] | None:
        """What is configured for exactly this subject, context (`:.ctx:`) or, with None, everywhere."""
        found = self._config.get(_scope(subject))
        return None if found is None else dict(found)

    def effective_config(self, subject: str | None) -> dict[str, Any]:
        """What holds for a subject: its own configuration over its context's over the global one."""
        merged: dict[str, Any] = {"compatibilityLevel": str(Level.BACKWARD)}
        for scope in reversed(scopes(subject)):
            merged |= {k: v for k, v in self._config.get(scope, {}).items() if v is not None}
        return merged

    def aliases(self, prefix: str) -> dict[str, list[str]]:
        """The subjects that have an alias, and the aliases that begin with `prefix`, sorted."""
        found: dict[str, list[str]] = defaultdict(list)
        for scope in sorted(filter(None, self._config)):
            alias = self._config[scope].get("alias")
            if alias and split(scope)[1] and matches(scope, prefix):
                found[canonical_subject(str(alias), context_of(scope))].append(scope)
        return dict(found)

    def mode(self, subject: str | None) -> str | None:
        """The mode set for exactly this subject, context or, with None, everywhere."""
        return self._mode.get(_scope(subject))

    def effective_mode(self, subject: str | None) -> str:
        """The mode that holds for a subject."""
        if self._mode.get(None) == "READONLY_OVERRIDE":
            return "READONLY_OVERRIDE"
        return next((self._mode[scope] for scope in scopes(subject) if scope in self._mode), DEFAULT_MODE)

    def scopes_within(self, subject: str | None) -> list[str]:
        """Subjects with a configuration or mode of their own inside a context (or, with None, anywhere)."""
        named = {scope for scope in (*self._config, *self._mode) if scope is not None and scope != _scope(subject)}
        return sorted(scope for scope in named if subject is None or context_of(scope) == context_of(subject))

    def contexts(self) -> list[str]:
        """Every context, the default one first."""
        used = {context_of(subject) for subject in self._versions} | self._contexts | {DEFAULT_CONTEXT}
        return sorted(used)


def scopes(subject: str | None) -> list[str | None]:
    """Where configuration and mode of a subject are looked up, nearest first."""
    if subject is None:
        return [None]
    context, name = split(subject)
    nearer: list[str | None] = [subject] if name else []
    return [*nearer, *([join(context, "")] if context != DEFAULT_CONTEXT else []), None]


def _scope(subject: str | None) -> str | None:
    """Global settings have several spellings."""
    if subject is None or subject in ("", ":.:", ":.", ":.__GLOBAL:", ":.__GLOBAL"):
        return None
    return canonical_subject(subject)


def _wanted(is_deleted: bool, deleted: bool, deleted_only: bool) -> bool:
    return is_deleted if deleted_only else (deleted or not is_deleted)


def _put(table: dict[str | None, Any], scope: str | None, value: Any) -> None:
    if value is None:
        table.pop(scope, None)
    else:
        table[scope] = value


def metadata_version(metadata: Mapping[str, Any] | None) -> str | None:
    """What `confluent:version` says."""
    number = ((metadata or {}).get("properties") or {}).get(VERSION)
    return None if number is None else str(number)


def _fits(version: Version, content: Content) -> bool:
    """Whether metadata and rules of a version are those asked for."""
    mine, other = content.metadata, version.content.metadata
    if content.rule_set != version.content.rule_set:
        return False
    number, others = metadata_version(mine), metadata_version(other)
    if (number is None) == (others is None):
        return mine == other
    return number in (None, str(version.version)) and _unnumbered(mine) == _unnumbered(other)


def _unnumbered(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Metadata without `confluent:version`, and without parts that are empty."""
    parts = dict(metadata or {})
    parts["properties"] = {k: v for k, v in (parts.get("properties") or {}).items() if k != VERSION}
    return {name: part for name, part in parts.items() if part}


def _canonical(text: str) -> str | None:
    try:
        return canonical(text)
    except SchemaFault:
        return None


def level_of(config: Mapping[str, Any]) -> Level:
    """The compatibility level in an effective configuration.

    Raises:
        Refusal: it is none of the seven.
    """
    try:
        return Level(str(config["compatibilityLevel"]).upper())
    except ValueError:
        raise refusals.invalid_level() from None
