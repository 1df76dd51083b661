"""Registering and checking schemas: a request against the store gives a decision or a refusal (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from instep_schemas.compatibility import Fault, Level, SchemaFault, check, parse
from instep_schemas.registry import refusals
from instep_schemas.registry.avro_text import Content, Reference, canonical
from instep_schemas.registry.entries import Decision, Entry, Key, Keytype, schema_entry
from instep_schemas.registry.requests import SchemaRequest
from instep_schemas.registry.store import READ_ONLY, Store, Version, level_of
from instep_schemas.registry.subjects import DEFAULT_CONTEXT, GLOBAL_CONTEXT, context_of
from instep_schemas.registry.subjects import canonical as canonical_subject

RESERVED: Final = "confluent:reserved"
"""Metadata property: names of fields that no version may have, separated by commas."""


def content_for(store: Store, subject: str, request: SchemaRequest, *, normalize: bool = False) -> Content:
    """The content that a request means: canonical text, references with their numbers.

    Raises:
        Refusal: 42201.
    """
    normalize = normalize or bool(store.effective_config(subject).get("normalize"))
    try:
        references = tuple(_pinned(store, subject, reference) for reference in request.references)
        raw = Content(request.text, references, request.metadata, request.rule_set)
        parse(store.resolved_text(raw, subject))
        return Content(canonical(request.text, normalize=normalize), references, request.metadata, request.rule_set)
    except SchemaFault as exc:
        raise refusals.invalid_schema(str(exc)) from exc


def _pinned(store: Store, subject: str, reference: Reference) -> Reference:
    if reference.version > 0:
        return reference
    latest = store.latest(canonical_subject(reference.subject, context_of(subject)))
    if latest is None:
        raise SchemaFault(f"the reference {reference.name} is to {reference.subject}, which has no version")
    return Reference(reference.name, reference.subject, latest.version)


def register(
    store: Store, subject: str, request: SchemaRequest, *, normalize: bool = False, force: bool = False
) -> Decision:
    """Register a schema as a new version, or find it there.

    Raises:
        Refusal: 42201, 42205, 42207, 42208, 409.
    """
    _check_subject(subject)
    importing = _check_register_mode(store, subject, request)
    content = content_for(store, subject, request, normalize=normalize)
    known = store.find(subject, content)
    if known is not None and not importing:
        return Decision(registered(known))
    if known is not None and known.schema_id == request.schema_id and request.version in (0, known.version):
        return Decision(registered(known))
    if not importing:
        content = _with_configured(store, subject, content)
        if (known := store.find(subject, content)) is not None:
            return Decision(registered(known))
        if not force:
            _check_reserved(store, subject, content)
            _check_compatible(store, subject, content)
    schema_id = _choose_id(store, subject, content, request)
    version = _choose_version(store, subject, schema_id, request, importing)
    new = Version(subject, version, schema_id, content, False, 0)
    return Decision(registered(new), (*_replaced(store, new), *_new_context(store, subject), _entry(new)))


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


def _entry(version: Version) -> Entry:
    return schema_entry(version.subject, version.version, version.schema_id, version.content, deleted=version.deleted)


def _check_subject(subject: str) -> None:
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
        if mode not in ("IMPORT", "FORWARD"):
            raise refusals.not_in_mode(subject, context, "not in import")
        return True
    if mode != "READWRITE":
        raise refusals.not_in_mode(subject, context, "not in read-write")
    return False


def _with_configured(store: Store, subject: str, content: Content) -> Content:
    """Metadata and rules: the request's, else the previous version's, over the defaults, under the overrides."""
    config, last = store.effective_config(subject), store.latest(subject)
    metadata = content.metadata if content.metadata is not None or last is None else last.content.metadata
    rules = content.rule_set if content.rule_set is not None or last is None else last.content.rule_set
    metadata = _merge_metadata(_merge_metadata(config.get("defaultMetadata"), metadata), config.get("overrideMetadata"))
    rules = _merge_rules(_merge_rules(config.get("defaultRuleSet"), rules), config.get("overrideRuleSet"))
    return Content(content.text, content.references, metadata, rules)


def _merge_metadata(lower: Mapping[str, Any] | None, upper: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if not lower or not upper:
        return upper or lower or None
    merged: dict[str, Any] = {
        part: {**(lower.get(part) or {}), **(upper.get(part) or {})} for part in ("tags", "properties")
    }
    merged["sensitive"] = sorted({*(lower.get("sensitive") or ()), *(upper.get("sensitive") or ())})
    return {part: value for part, value in merged.items() if value}


def _merge_rules(lower: Mapping[str, Any] | None, upper: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if not lower or not upper:
        return upper or lower or None
    merged = {**lower, **upper}
    for kind in ("migrationRules", "domainRules", "encodingRules"):
        rules = {rule["name"]: rule for rule in (*(lower.get(kind) or ()), *(upper.get(kind) or ()))}
        if rules:
            merged[kind] = list(rules.values())
    return merged


def _check_compatible(store: Store, subject: str, content: Content) -> None:
    level = level_of(store.effective_config(subject))
    faults = faults_against(store, subject, content, level, _comparable(store, subject, content))
    if faults:
        raise refusals.incompatible(subject, details(store, subject, faults, level))


def _check_reserved(store: Store, subject: str, content: Content) -> None:
    """With `validateFields`: a field named in the metadata as reserved is not used, and stays reserved."""
    if not store.effective_config(subject).get("validateFields"):
        return
    last, mine = store.latest(subject), _reserved(content)
    given_up = _reserved(last.content) - mine if last is not None else set()
    if given_up:
        told = [f"The new schema has reserved field {name} removed from its metadata" for name in sorted(given_up)]
        raise refusals.incompatible(subject, told)
    schema = parse(store.resolved_text(content, subject))
    used = mine & {field.name for field in getattr(schema, "fields", ())}
    if used:
        raise refusals.incompatible(
            subject, [f"The new schema has field {name}, which is reserved" for name in sorted(used)]
        )


def _reserved(content: Content) -> set[str]:
    return {name.strip() for name in str(_property(content, RESERVED) or "").split(",") if name.strip()}


def _comparable(store: Store, subject: str, content: Content) -> list[Version]:
    """Live versions a new one must fit; with a compatibility group, those of the same group."""
    versions = store.versions(subject)
    group = store.effective_config(subject).get("compatibilityGroup")
    if not group:
        return versions
    mine = _property(content, group)
    return [version for version in versions if _property(version.content, group) == mine]


def _property(content: Content, name: str) -> Any:
    return ((content.metadata or {}).get("properties") or {}).get(name)


def faults_against(
    store: Store, subject: str, content: Content, level: Level, versions: Sequence[Version]
) -> list[Fault]:
    """Check a content against versions, oldest first.

    Raises:
        Refusal: 42201.
    """
    try:
        olds = [(v.version, store.resolved_text(v.content, v.subject)) for v in versions]
        return check(level, store.resolved_text(content, subject), olds)
    except SchemaFault as exc:
        raise refusals.invalid_schema(str(exc)) from exc


def details(store: Store, subject: str, faults: Sequence[Fault], level: Level) -> list[str]:
    """The messages of a refusal, in the form that tools take apart; the description is for people."""
    told = [f"{{errorType:'{fault.kind}', description:'{fault}', additionalInfo:'{fault.column}'}}" for fault in faults]
    validate = str(bool(store.effective_config(subject).get("validateFields"))).lower()
    return [*told, f"{{validateFields: '{validate}', compatibility: '{level}'}}"]


def check_request(
    store: Store, subject: str, request: SchemaRequest, version: int | None, *, normalize: bool, verbose: bool
) -> dict[str, Any]:
    """Answer a compatibility check; against one version (-1: the newest), or what the level says with None.

    Raises:
        Refusal: 40402, 42201.
    """
    content, level = content_for(store, subject, request, normalize=normalize), None
    if version is None:
        versions = _comparable(store, subject, content)
    elif version == -1:
        versions = _comparable(store, subject, content)[-1:]
    else:
        versions = [v for v in store.versions(subject) if v.version == version]
        if not versions:
            raise refusals.version_not_found(version)
    level = level_of(store.effective_config(subject))
    faults = faults_against(store, subject, content, level, versions)
    answer: dict[str, Any] = {"is_compatible": not faults}
    if verbose:
        answer["messages"] = details(store, subject, faults, level) if faults else []
    return answer


def _choose_id(store: Store, subject: str, content: Content, request: SchemaRequest) -> int:
    context = context_of(subject)
    known = store.id_of(context, content)
    if request.schema_id < 0:
        return store.highest_id(context) + 1 if known is None else known
    if any(holder.content.guid != content.guid for holder in store.holders(context, request.schema_id)):
        raise refusals.id_taken(request.schema_id, context)
    return request.schema_id


def _choose_version(store: Store, subject: str, schema_id: int, request: SchemaRequest, importing: bool) -> int:
    taken = {version.version: version for version in store.versions(subject, deleted=True)}
    following = max(taken, default=0) + 1
    if importing and request.version:
        other = taken.get(request.version)
        if other is not None and not other.deleted and other.schema_id != schema_id:
            raise refusals.not_permitted(
                f"Overwrite new schema with id {schema_id} is not permitted: {subject} has version {request.version}."
            )
        return request.version
    if request.version not in (0, following):
        raise refusals.invalid_schema(f"Version is not one more than previous version {following - 1}")
    return following


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
