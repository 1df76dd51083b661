"""The answers to every request that changes nothing (pure)."""

from __future__ import annotations

from typing import Any

from instep_schemas.registry import refusals
from instep_schemas.registry.ask import Ask
from instep_schemas.registry.avro_text import Content
from instep_schemas.registry.previous import RULES, completed
from instep_schemas.registry.registration import check_request, content_body, content_for
from instep_schemas.registry.requests import schema_request
from instep_schemas.registry.store import Store, Version
from instep_schemas.registry.subjects import DEFAULT_CONTEXT, EVERY_CONTEXT, canonical, context_of, join, split
from instep_schemas.registry.tags import tagged
from instep_schemas.registry.writes import config_body


class Text(str):
    """An answer that is sent as it is: a schema."""


def schema_types(store: Store, ask: Ask) -> Any:
    """GET /schemas/types."""
    return ["AVRO"]


def subjects(store: Store, ask: Ask) -> Any:
    """GET /subjects."""
    found = store.subjects(ask.prefix, deleted=ask.flag("deleted"), deleted_only=ask.flag("deletedOnly"))
    return ask.page(found)


def versions(store: Store, ask: Ask) -> Any:
    """GET /subjects/{subject}/versions."""
    subject, negative = ask.subject, ask.flag("deletedAsNegative")
    deleted = ask.flag("deleted") or negative
    found = store.versions(subject, deleted=deleted, deleted_only=ask.flag("deletedOnly"))
    if not found:
        raise refusals.subject_not_found(subject)
    return ask.page([-v.version if negative and v.deleted else v.version for v in found])


def version(store: Store, ask: Ask) -> Any:
    """GET /subjects/{subject}/versions/{version}."""
    return version_body(store, _version(store, ask), ask)


def version_text(store: Store, ask: Ask) -> Any:
    """GET /subjects/{subject}/versions/{version}/schema."""
    found = _version(store, ask)
    return Text(_formatted(store, found.content, found.subject, ask)["schema"])


def referenced_by(store: Store, ask: Ask) -> Any:
    """GET /subjects/{subject}/versions/{version}/referencedby."""
    subject, deleted = ask.subject, ask.flag("deleted")
    found = _version(store, ask, deleted=True)
    if found.deleted and not (deleted or store.referrers(subject, found.version, deleted=True)):
        raise refusals.version_not_found(found.version)
    ids = {referrer.schema_id for referrer in store.referrers(*found.place, deleted=deleted)}
    return ask.page(sorted(ids))


def latest_with_metadata(store: Store, ask: Ask) -> Any:
    """GET /subjects/{subject}/metadata."""
    wanted, subject = dict(zip(ask.texts("key"), ask.texts("value"), strict=False)), ask.subject
    found = store.versions(subject, deleted=ask.flag("deleted"))
    if not found:
        raise refusals.subject_not_found(subject)
    for candidate in reversed(found):
        properties = (candidate.content.metadata or {}).get("properties") or {}
        if wanted.items() <= properties.items():
            return version_body(store, candidate, ask)
    raise refusals.schema_not_found()


def look_up(store: Store, ask: Ask) -> Any:
    """POST /subjects/{subject}."""
    deleted, request = ask.flag("deleted"), schema_request(ask.body)
    for subject in _meant(store, ask.subject) if request.text else ():
        content = content_for(store, subject, request, normalize=ask.flag("normalize"), strict=False)
        if store.versions(subject, deleted=deleted):
            found = store.find(subject, content, deleted=deleted, newest_only=request.version == -1)
            found = found or store.find(subject, completed(store, subject, content, None), deleted=deleted)
            if found is not None:
                return version_body(store, found, ask)
    if not store.versions(ask.subject, deleted=deleted):
        raise refusals.subject_not_found(ask.subject)
    raise refusals.schema_not_found()


def schemas(store: Store, ask: Ask) -> Any:
    """GET /schemas."""
    deleted, kind = ask.flag("deleted"), ask.text("ruleType")
    aliases = store.aliases(ask.prefix) if ask.flag("aliases") else {}
    found: list[Version] = []
    for subject in sorted({*store.subjects(ask.prefix, deleted=deleted), *aliases}):
        all_of_it = store.versions(subject, deleted=deleted)
        found += all_of_it[-1:] if ask.flag("latestOnly") else all_of_it
    if kind:
        found = [each for each in found if kind in _rule_types(each.content)]
    bodies = ((version_body(store, each, ask), aliases.get(each.subject)) for each in ask.page(found))
    return [body | ({"aliases": names} if names else {}) for body, names in bodies]


def _rule_types(content: Content) -> set[str]:
    rules = content.rule_set or {}
    return {str(rule.get("type")) for kind in RULES for rule in rules.get(kind) or ()}


def schema_by_id(store: Store, ask: Ask) -> Any:
    """GET /schemas/ids/{id}."""
    holder = _holders(store, ask)[0]
    place = {"subject": holder.subject, "version": holder.version} if ask.text("subject") else {}
    body = place | _held(store, holder, ask)
    if ask.flag("includeSubjects"):  # Karapace's
        body["subjects"] = list(dict.fromkeys(holder.subject for holder in _shown(store, ask)))
    if ask.flag("fetchMaxId"):
        body["maxId"] = store.highest_id(context_of(holder.subject))
    return body


def text_by_id(store: Store, ask: Ask) -> Any:
    """GET /schemas/ids/{id}/schema."""
    return Text(schema_by_id(store, ask)["schema"])


def subjects_by_id(store: Store, ask: Ask) -> Any:
    """GET /schemas/ids/{id}/subjects."""
    return ask.page(list(dict.fromkeys(holder.subject for holder in _shown(store, ask))))


def versions_by_id(store: Store, ask: Ask) -> Any:
    """GET /schemas/ids/{id}/versions."""
    return ask.page([{"subject": holder.subject, "version": holder.version} for holder in _shown(store, ask)])


def schema_by_guid(store: Store, ask: Ask) -> Any:
    """GET /schemas/guids/{guid}."""
    return _held(store, _by_guid(store, ask)[0], ask)


def _held(store: Store, holder: Version, ask: Ask) -> dict[str, Any]:
    """A schema that is asked for by what identifies it, not by its place."""
    body = _formatted(store, holder.content, holder.subject, ask) | {"guid": holder.content.guid}
    return body | {"ts": holder.written_ms, "deleted": holder.deleted}


def ids_by_guid(store: Store, ask: Ask) -> Any:
    """GET /schemas/guids/{guid}/ids."""
    return [{"context": context_of(holder.subject), "id": holder.schema_id} for holder in _by_guid(store, ask)]


def compatibility(store: Store, ask: Ask) -> Any:
    """POST /compatibility/subjects/{subject}/versions[/{version}]."""
    number = ask.version if "version" in ask.path else None
    flags = {"normalize": ask.flag("normalize"), "verbose": ask.flag("verbose")}
    return check_request(store, ask.subject, schema_request(ask.body), number, **flags)


def config(store: Store, ask: Ask) -> Any:
    """GET /config[/{subject}]."""
    own = store.config(ask.scope)
    if ask.scope is None or ask.flag("defaultToGlobal"):
        return config_body(store.effective_config(ask.scope), "compatibilityLevel")
    if own is None:
        raise refusals.no_subject_config(ask.scope)
    return config_body(own, "compatibilityLevel")


def mode(store: Store, ask: Ask) -> Any:
    """GET /mode[/{subject}]."""
    own = store.mode(ask.scope)
    if ask.scope is None or ask.flag("defaultToGlobal"):
        return {"mode": store.effective_mode(ask.scope)}
    if own is None:
        raise refusals.no_subject_mode(ask.scope)
    return {"mode": own}


def contexts(store: Store, ask: Ask) -> Any:
    """GET /contexts."""
    prefix = ask.text("contextPrefix") or ""
    return ask.page([context for context in store.contexts() if context.startswith(prefix)])


def version_body(store: Store, found: Version, ask: Ask) -> dict[str, Any]:
    """One version as it stands in answers."""
    body: dict[str, Any] = {"subject": found.subject, "version": found.version, "id": found.schema_id}
    body |= {"guid": found.content.guid} | _formatted(store, found.content, found.subject, ask)
    body["ts"] = found.written_ms
    if found.deleted:
        body["deleted"] = True
    return body


def _formatted(store: Store, content: Content, subject: str, ask: Ask) -> dict[str, Any]:
    body = content_body(content)
    if ask.text("format") == "resolved" and content.references:
        body["schema"] = store.resolved_text(content, subject)
        del body["references"]
    elif ask.text("referenceFormat") == "qualified" and content.references:
        context = context_of(subject)
        body["references"] = [r.body() | {"subject": canonical(r.subject, context)} for r in content.references]
    if wanted := set(ask.texts("findTags")):
        found = [each for each in tagged(content.text) if "*" in wanted or wanted & set(each.tags)]
        body["schemaTags"] = [each.body() for each in found]
    return body


def _meant(store: Store, subject: str) -> list[str]:
    """The subject; one without a context may also be meant in another one."""
    if context_of(subject) != DEFAULT_CONTEXT:
        return [subject]
    return [subject, *(join(context, subject) for context in store.contexts() if context != DEFAULT_CONTEXT)]


def _version(store: Store, ask: Ask, *, deleted: bool = False) -> Version:
    number, deleted = ask.version, deleted or ask.flag("deleted")
    for subject in _meant(store, ask.subject):
        found = store.versions(subject, deleted=deleted)
        for candidate in found[-1:] if number == -1 else found:
            if number in (-1, candidate.version):
                return candidate
    if not store.versions(ask.subject, deleted=deleted):
        raise refusals.subject_not_found(ask.subject)
    raise refusals.version_not_found(number)


def _holders(store: Store, ask: Ask) -> list[Version]:
    """The versions with the id asked for, in the context of the subject named with it."""
    schema_id = ask.path["id"]
    if not schema_id.isdecimal():
        raise refusals.no_such_page()
    subject = canonical(ask.text("subject") or "", ask.context)
    found = store.holders(context_of(subject), int(schema_id))
    name = split(subject)[1]
    if not found and name and context_of(subject) == DEFAULT_CONTEXT:
        # a subject without a context may be meant in another one: take that if it holds this id
        for other in store.subjects(f"{EVERY_CONTEXT}{name}", deleted=True):
            if other == join(context_of(other), name):
                found = found or [h for h in store.holders(context_of(other), int(schema_id)) if h.subject == other]
    if not found:
        raise refusals.schema_not_found(schema_id)
    return found


def _shown(store: Store, ask: Ask) -> list[Version]:
    found, only = _holders(store, ask), ask.text("subject")
    if only:
        found = [holder for holder in found if holder.subject == canonical(only, ask.context)]
    return [holder for holder in found if ask.flag("deleted") or not holder.deleted]


def _by_guid(store: Store, ask: Ask) -> list[Version]:
    found = store.holders_by_guid(ask.path["guid"].lower())
    if not found:
        raise refusals.schema_not_found(ask.path["guid"])
    return found
