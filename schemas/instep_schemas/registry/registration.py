"""Registering schemas: a request against the store gives a decision or a refusal (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from instep_schemas.compatibility import SchemaFault, parse, parse_leniently
from instep_schemas.registry import refusals
from instep_schemas.registry.avro_text import Content, Reference, canonical
from instep_schemas.registry.checks import check_next, compatibility_answer
from instep_schemas.registry.entries import Decision, Entry, Key, Keytype, schema_entry
from instep_schemas.registry.previous import (
    RULES,
    completed,
    has_number,
    is_configured,
    merge_rules,
    numbered,
)
from instep_schemas.registry.requests import SchemaRequest, TagRequest
from instep_schemas.registry.store import READ_ONLY, Store, Version
from instep_schemas.registry.subjects import DEFAULT_CONTEXT, GLOBAL_CONTEXT, context_of
from instep_schemas.registry.subjects import canonical as canonical_subject
from instep_schemas.registry.tags import retagged, with_tags_of

_IMPORTING = ("IMPORT", "FORWARD")


def content_for(
    store: Store, subject: str, request: SchemaRequest, *, normalize: bool = False, strict: bool = True
) -> Content:
    """The content that a request means: canonical text, references with their numbers.

    Args:
        store: the state.
        subject: qualified.
        request: with a text.
        normalize: whether it was asked for; the configuration may ask for it, too.
        strict: whether defaults and names must be right, and references be to live versions.

    Raises:
        Refusal: 42201.
    """
    normalize = normalize or bool(store.effective_config(subject).get("normalize"))
    try:
        references = tuple(_pinned(store, subject, reference, strict) for reference in request.references)
        if normalize:
            references = tuple(sorted(dict.fromkeys(references), key=lambda r: (r.name, r.subject, r.version)))
        raw = Content(request.text, references, request.metadata, request.rule_set)
        (parse if strict else parse_leniently)(store.resolved_text(raw, subject))
        return Content(canonical(request.text, normalize=normalize), references, request.metadata, request.rule_set)
    except SchemaFault as exc:
        raise refusals.invalid_schema(str(exc)) from exc


def validates(store: Store, subject: str) -> bool:
    """Whether new schemas are looked at strictly (`validateNewSchemas`)."""
    return store.effective_config(subject).get("validateNewSchemas") is not False


def _pinned(store: Store, subject: str, reference: Reference, strict: bool) -> Reference:
    referee = canonical_subject(reference.subject, context_of(subject))
    if reference.version < 1:
        latest = store.latest(referee)
        if latest is None:
            raise SchemaFault(f"the reference {reference.name} is to {reference.subject}, which has no version")
        return Reference(reference.name, reference.subject, latest.version)
    if strict and not any(version.version == reference.version for version in store.versions(referee)):
        told = f"the reference {reference.name} is to {reference.subject} v{reference.version}"
        raise SchemaFault(f"{told}, which does not exist")
    return reference


def register(
    store: Store, subject: str, request: SchemaRequest, *, normalize: bool = False, force: bool = False
) -> Decision:
    """Register a schema as a new version, or find it there.

    Raises:
        Refusal: 42201, 42205, 42207, 42208, 409.
    """
    check_subject(subject)
    if (known := _already(store, subject, request, normalize)) is not None:
        return Decision(registered(known))
    if _check_register_mode(store, subject, request):
        return _imported(store, subject, request)
    strict = validates(store, subject)
    request = _tagged(store, subject, _with_text(store, subject, request))
    content = content_for(store, subject, request, normalize=normalize, strict=strict)
    taken = store.versions(subject, deleted=True)
    following = taken[-1].version + 1 if taken else 1
    number = following if request.version or has_number(store, subject, content) else None
    content = completed(store, subject, content, number)
    if not request.version and (known := store.find(subject, content)) is not None:
        return Decision(registered(known))
    if not force:
        check_next(store, subject, content, strict=strict)
    if request.version not in (0, -1, following):
        raise refusals.invalid_schema(f"Version is not one more than previous version {following - 1}")
    schema_id = store.id_of(context_of(subject), content) or store.highest_id(context_of(subject)) + 1
    return _new_version(store, Version(subject, following, schema_id, content, False, 0))


def _already(store: Store, subject: str, request: SchemaRequest, normalize: bool) -> Version | None:
    """The version that this request means, if it is there: it needs no right to write."""
    if not request.text or request.tags_differ or is_configured(store.effective_config(subject)):
        return None
    content = content_for(store, subject, request, normalize=normalize, strict=False)
    known = store.find(subject, content, newest_only=request.version == -1)
    if known is None:
        return None
    if request.version in (0, -1):
        return known if request.schema_id in (-1, known.schema_id) else None
    places = [v for v in store.versions(subject) if v.version == request.version]
    return next((v for v in places if v.schema_id == request.schema_id and v.content.guid == known.content.guid), None)


def _with_text(store: Store, subject: str, request: SchemaRequest) -> SchemaRequest:
    """Without a text, the newest version's is meant: only metadata or rules are new."""
    if request.text:
        return request
    last = store.latest(subject)
    if last is None:
        raise refusals.invalid_schema("Empty schema")
    return replace(request, text=last.content.text, references=last.content.references)


def _tagged(store: Store, subject: str, request: SchemaRequest) -> SchemaRequest:
    """The request with the tags that it asks for written into the text."""
    if not request.tags_differ:
        return request
    try:
        text, last = canonical(request.text), store.latest(subject)
        if request.tags_add or request.tags_remove:
            text = retagged(text, request.tags_add, request.tags_remove)
            request = replace(request, version=request.version or -1)
        if request.propagate_tags and last is not None:
            text = with_tags_of(text, last.content.text)
        return replace(request, text=text)
    except SchemaFault as exc:
        raise refusals.invalid_schema(str(exc)) from exc


def _imported(store: Store, subject: str, request: SchemaRequest) -> Decision:
    """Taken as it is: with its id and version, unchecked, and not normalized."""
    if not request.text:
        raise refusals.invalid_schema("Empty schema")
    try:
        references = tuple(_pinned(store, subject, reference, False) for reference in request.references)
        content = Content(canonical(request.text), references, request.metadata, request.rule_set)
        parse_leniently(store.resolved_text(content, subject))
    except SchemaFault as exc:
        raise refusals.invalid_schema(str(exc)) from exc
    known = store.find(subject, content)
    if known is not None and not request.version and known.schema_id == request.schema_id:
        return Decision(registered(known))
    holders = store.holders(context_of(subject), request.schema_id)
    if any(holder.content.guid != content.guid for holder in holders):
        raise refusals.id_taken(request.schema_id, context_of(subject))
    taken = {version.version: version for version in store.versions(subject, deleted=True)}
    number = request.version if request.version > 0 else max(taken, default=0) + 1
    other = taken.get(number)
    if other is not None and not other.deleted and other.schema_id != request.schema_id:
        raise refusals.not_permitted(
            f"Overwrite new schema with id {request.schema_id} is not permitted: {subject} has version {number}."
        )
    return _new_version(store, Version(subject, number, request.schema_id, content, False, 0))


def modify_tags(store: Store, subject: str, number: int, request: TagRequest) -> Decision:
    """Register a version (-1: the newest) again with other tags, metadata or rules.

    Raises:
        Refusal: 40401, 40402, 42201, 42205, 42208, 409.
    """
    check_subject(subject)
    versions = store.versions(subject)
    if not versions:
        raise refusals.subject_not_found(subject)
    old = versions[-1] if number == -1 else next((v for v in versions if v.version == number), None)
    if old is None:
        raise refusals.version_not_found(number)
    content = old.content
    following = store.versions(subject, deleted=True)[-1].version + 1
    made = SchemaRequest(
        text=content.text,
        references=content.references,
        metadata=numbered(content.metadata if request.metadata is None else request.metadata, following),
        rule_set=_changed_rules(versions, request),
        version=request.version or -1,
        tags_add=request.tags_add,
        tags_remove=request.tags_remove,
    )
    return register(store, subject, made)


def _changed_rules(versions: Sequence[Version], request: TagRequest) -> Mapping[str, Any] | None:
    if request.rules_merge is None and not request.rules_remove:
        return request.rule_set
    merged = merge_rules(versions[-1].content.rule_set, request.rules_merge) or {}
    kept = {k: [r for r in merged[k] if r["name"] not in request.rules_remove] for k in RULES if k in merged}
    return {**merged, **kept}


def registered(version: Version) -> dict[str, Any]:
    """The answer to a registration."""
    body: dict[str, Any] = {"id": version.schema_id, "version": version.version, "guid": version.content.guid}
    return body | content_body(version.content)


def content_body(content: Content) -> dict[str, Any]:
    """A content as it stands in answers; absent parts are left out."""
    body: dict[str, Any] = {"schema": content.text, "schemaType": "AVRO"}
    if content.references:
        body["references"] = [reference.body() for reference in content.references]
    if content.metadata is not None:
        body["metadata"] = dict(content.metadata)
    if content.rule_set is not None:
        body["ruleSet"] = dict(content.rule_set)
    return body


def check_request(
    store: Store, subject: str, request: SchemaRequest, version: int | None, *, normalize: bool, verbose: bool
) -> dict[str, Any]:
    """Answer a compatibility check; against one version (-1: the newest), or what the level says with None.

    Raises:
        Refusal: 40402, and without `verbose` 42201.
    """
    if version not in (None, -1) and all(v.version != version for v in store.versions(subject)):
        raise refusals.version_not_found(version)
    strict = validates(store, subject)
    try:
        content = content_for(store, subject, _with_text(store, subject, request), normalize=normalize, strict=strict)
        return compatibility_answer(store, subject, content, version, strict=strict, verbose=verbose)
    except refusals.Refusal as refusal:
        if verbose and refusal.code == 42201:
            return {"is_compatible": False, "messages": [refusal.message]}
        raise


def check_subject(subject: str) -> None:
    """Refuse a name that no subject may have.

    Raises:
        Refusal: 42208.
    """
    name = subject.rpartition(":")[2] if subject.startswith(":.") else subject
    if (
        not name
        or context_of(subject) == GLOBAL_CONTEXT
        or name in ("__GLOBAL", "__EMPTY")
        or any(ord(char) < 32 or ord(char) == 127 for char in subject)
    ):
        raise refusals.invalid_subject(subject)


def _check_register_mode(store: Store, subject: str, request: SchemaRequest) -> bool:
    """Whether this is an import; its id is given."""
    mode, context = store.effective_mode(subject), context_of(subject)
    if mode in READ_ONLY:
        raise refusals.not_in_mode(subject, context, "in read-only")
    if request.schema_id >= 0:
        if mode not in _IMPORTING:
            raise refusals.not_in_mode(subject, context, "not in import")
        return True
    if mode != "READWRITE":
        raise refusals.not_in_mode(subject, context, "not in read-write")
    return False


def _new_version(store: Store, new: Version) -> Decision:
    entry = schema_entry(new.subject, new.version, new.schema_id, new.content, deleted=new.deleted)
    return Decision(registered(new), (*_replaced(store, new), *_new_context(store, new.subject), entry))


def _replaced(store: Store, new: Version) -> list[Entry]:
    """The same schema, softly deleted, is gone once it is back under a new version, unless it is referenced."""
    return [
        Entry(Key(Keytype.SCHEMA, *old.place), None)
        for old in store.versions(new.subject, deleted_only=True)
        if old.content.guid == new.content.guid
        and old.place != new.place
        and not store.referrers(*old.place, deleted=True)
    ]


def _new_context(store: Store, subject: str) -> list[Entry]:
    context = context_of(subject)
    if context == DEFAULT_CONTEXT or context in store.contexts():
        return []
    key = Key(Keytype.CONTEXT, context=context)
    return [Entry(key, {"tenant": key.tenant, "context": context})]
