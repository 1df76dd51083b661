"""Deletions, configuration and modes: a request against the store gives a decision or a refusal (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from instep_schemas.registry import refusals
from instep_schemas.registry.entries import Decision, Entry, Key, Keytype, schema_entry
from instep_schemas.registry.store import IDS, READ_ONLY, Store, Version, scopes
from instep_schemas.registry.subjects import DEFAULT_CONTEXT, context_of, join

# ---- deletions ----------------------------------------------------------------------------------------------------


def _check_writable(store: Store, subject: str | None) -> None:
    if store.effective_mode(subject) in READ_ONLY:
        raise refusals.not_in_mode(str(subject), context_of(subject or ""), "in read-only")


def delete_subject(store: Store, subject: str, *, permanent: bool) -> Decision:
    """Delete a subject: first softly, then for good.

    Raises:
        Refusal: 40401, 40404, 40405, 42205, 42206.
    """
    _check_writable(store, subject)
    everything, live = store.versions(subject, deleted=True), store.versions(subject)
    if not everything:
        raise refusals.subject_not_found(subject)
    if permanent and live:
        raise refusals.subject_not_soft_deleted(subject)
    if not permanent and not live:
        raise refusals.subject_soft_deleted(subject)
    _check_unreferenced(store, everything, permanent)
    if permanent:
        entries = (*_gone(store, everything), *_settings_gone(store, subject))
        return Decision([v.version for v in everything], entries)
    deletion = {"subject": subject, "version": everything[-1].version}
    return Decision([v.version for v in live], (Entry(Key(Keytype.DELETE_SUBJECT, subject), deletion),))


def delete_version(store: Store, subject: str, number: int, *, permanent: bool) -> Decision:
    """Delete one version (-1: the newest): first softly, then for good.

    Raises:
        Refusal: 40401, 40402, 40406, 40407, 42205, 42206.
    """
    _check_writable(store, subject)
    everything = store.versions(subject, deleted=True)
    if not everything or (not permanent and not store.versions(subject)):
        raise refusals.subject_not_found(subject)
    latest = store.latest(subject, deleted=permanent)
    version = latest if number == -1 else next((v for v in everything if v.version == number), None)
    if version is None:
        raise refusals.version_not_found(number)
    if permanent and not version.deleted:
        raise refusals.version_not_soft_deleted(subject, version.version)
    if not permanent and version.deleted:
        raise refusals.version_soft_deleted(subject, version.version)
    _check_unreferenced(store, [version], permanent)
    if permanent:
        settings = _settings_gone(store, subject) if everything == [version] else []
        return Decision(version.version, (*_gone(store, [version]), *settings))
    entry = schema_entry(subject, version.version, version.schema_id, version.content, deleted=True)
    return Decision(version.version, (entry,))


def _check_unreferenced(store: Store, versions: Sequence[Version], permanent: bool) -> None:
    """What goes together may reference one another; a deletion for good also looks at softly deleted referrers."""
    places = {version.place for version in versions}
    for version in versions:
        if any(other.place not in places for other in store.referrers(*version.place, deleted=permanent)):
            raise refusals.referenced(*version.place)


def _gone(store: Store, versions: Sequence[Version]) -> list[Entry]:
    """Tombstones, with a note of the highest ids: compaction forgets the deleted ones, and no id comes twice."""
    tombstones = [Entry(Key(Keytype.SCHEMA, *version.place), None) for version in versions]
    return [*tombstones, Entry(Key(Keytype.NOOP), {IDS: store.highest_ids()})]


def _settings_gone(store: Store, subject: str) -> list[Entry]:
    """A subject deleted for good takes its own configuration and mode along."""
    config = [Entry(Key(Keytype.CONFIG, subject), None)] if store.config(subject) is not None else []
    mode = [Entry(Key(Keytype.MODE, subject), None)] if store.mode(subject) is not None else []
    return [*config, *mode]


def delete_context(store: Store, context: str) -> Decision:
    """Delete an empty context.

    Raises:
        Refusal: 40401, 42211.
    """
    if any(context_of(version.subject) == context for version in store.every_version()):
        raise refusals.context_not_empty(context)
    if context == DEFAULT_CONTEXT or context not in store.contexts():
        raise refusals.subject_not_found(join(context, ""))
    return Decision(None, (Entry(Key(Keytype.CONTEXT, context=context), None),))


# ---- configuration and mode ---------------------------------------------------------------------------------------


def set_config(store: Store, subject: str | None, update: Mapping[str, Any]) -> Decision:
    """Change the fields sent; null clears one. The answer is what is configured then.

    Raises:
        Refusal: 42205.
    """
    _check_writable(store, subject)
    merged = {k: v for k, v in {**(store.config(subject) or {}), **update}.items() if v is not None}
    return Decision(config_body(merged, "compatibility"), (Entry(Key(Keytype.CONFIG, subject), merged),))


def delete_config(store: Store, subject: str | None, *, recursive: bool = False) -> Decision:
    """Back to what holds above. The answer is what was configured.

    Raises:
        Refusal: 40401 when nothing was, 42205.
    """
    _check_writable(store, subject)
    old = store.config(subject)
    if old is None and subject is not None:
        raise refusals.subject_not_found(subject)
    targets = [subject, *(store.scopes_within(subject) if recursive else ())]
    entries = tuple(Entry(Key(Keytype.CONFIG, t), None) for t in targets if store.config(t) is not None)
    return Decision(config_body(old or store.effective_config(None), "compatibilityLevel"), entries)


def config_body(config: Mapping[str, Any], level_field: str) -> dict[str, Any]:
    """A configuration as it stands in answers; updates echo `compatibility`, others say `compatibilityLevel`."""
    fields = {k: v for k, v in config.items() if v is not None and k != "compatibilityLevel"}
    level = config.get("compatibilityLevel")
    return ({level_field: level} if level else {}) | fields


def set_mode(store: Store, subject: str | None, mode: str | None, *, force: bool) -> Decision:
    """Set a mode, or with None let the one above hold.

    IMPORT needs a place without schemas, where softly deleted ones are cleared, or force.

    Raises:
        Refusal: 42205, 42206.
    """
    entries: list[Entry] = []
    if mode == "IMPORT" and store.effective_mode(subject) != "IMPORT" and not force:
        within = [v for v in store.every_version() if subject is None or subject in scopes(v.subject)]
        if any(not version.deleted for version in within):
            raise refusals.not_permitted("Cannot import since found existing subjects")
        _check_unreferenced(store, within, permanent=True)
        entries = _gone(store, within) if within else []
    value = None if mode is None else {"subject": subject, "mode": mode}
    return Decision({"mode": mode}, (*entries, Entry(Key(Keytype.MODE, subject), value)))


def delete_mode(store: Store, subject: str | None, *, recursive: bool = False) -> Decision:
    """Back to the mode that holds above. The answer is the mode that was set.

    Raises:
        Refusal: 40401 when none was; not with `recursive`, which is also for what lies below.
    """
    old = store.mode(subject)
    if old is None and subject is not None and not recursive:
        raise refusals.subject_not_found(subject)
    targets = [subject, *(store.scopes_within(subject) if recursive else ())]
    entries = tuple(Entry(Key(Keytype.MODE, t), None) for t in targets if store.mode(t) is not None)
    return Decision({"mode": old or (store.effective_mode(None) if subject is None else None)}, entries)
