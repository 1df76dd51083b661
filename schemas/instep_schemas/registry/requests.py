"""Request bodies, read leniently: unknown properties, `null` and numbers as text are taken (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from instep_schemas.compatibility import Level
from instep_schemas.registry import refusals
from instep_schemas.registry.avro_text import Reference
from instep_schemas.registry.tags import FIELD, RECORD, Tagged

MODES: Final = ("READWRITE", "READONLY", "READONLY_OVERRIDE", "IMPORT", "FORWARD")
_POLICIES: Final = ("STRICT", "LENIENT", "LOGICAL")
_CONFIG_FIELDS: Final = (
    "alias",
    "normalize",
    "validateFields",
    "validateNewSchemas",
    "validateRules",
    "compatibilityPolicy",
    "compatibilityGroup",
    "defaultMetadata",
    "overrideMetadata",
    "defaultRuleSet",
    "overrideRuleSet",
)
_RULE_KINDS: Final = {
    "migrationRules": ("UPGRADE", "DOWNGRADE", "UPDOWN"),
    "domainRules": ("WRITE", "READ", "WRITEREAD"),
    "encodingRules": ("WRITE", "READ", "WRITEREAD"),
}


@dataclass(frozen=True, slots=True)
class SchemaRequest:
    """A schema to register, look up or check.

    Attributes:
        text: as sent; empty: the newest version's.
        references: versions not yet resolved: -1 is the newest.
        metadata: None when not given.
        rule_set: None when not given.
        version: the version it must become, and say in its metadata; -1: the next one; 0: the next one, and not said.
        schema_id: the id it must have (IMPORT); -1: the registry chooses.
        tags_add: tags to write into the text.
        tags_remove: tags to take out of it.
        propagate_tags: take over the tags of the version before.
    """

    text: str
    references: tuple[Reference, ...] = ()
    metadata: Mapping[str, Any] | None = None
    rule_set: Mapping[str, Any] | None = None
    version: int = 0
    schema_id: int = -1
    tags_add: tuple[Tagged, ...] = ()
    tags_remove: tuple[Tagged, ...] = ()
    propagate_tags: bool = False

    @property
    def tags_differ(self) -> bool:
        """Whether the tags in the text are not yet those asked for."""
        return bool(self.tags_add or self.tags_remove or self.propagate_tags)


@dataclass(frozen=True, slots=True)
class TagRequest:
    """A version to register again with other tags, metadata or rules.

    Attributes:
        version: the version it must become; 0: the next one.
        tags_add: tags to write into the schema.
        tags_remove: tags to take out of it.
        metadata: instead of the version's; None: that.
        rule_set: instead of the version's; None: that.
        rules_merge: rules to add to the newest version's.
        rules_remove: names of rules to leave out of them.
    """

    version: int = 0
    tags_add: tuple[Tagged, ...] = ()
    tags_remove: tuple[Tagged, ...] = ()
    metadata: Mapping[str, Any] | None = None
    rule_set: Mapping[str, Any] | None = None
    rules_merge: Mapping[str, Any] | None = None
    rules_remove: frozenset[str] = frozenset()


def schema_request(body: Any) -> SchemaRequest:
    """Read a body that holds a schema.

    Raises:
        Refusal: 400 for another shape, 42201 for no schema or one that is not Avro, 42210 for bad rules.
    """
    if not isinstance(body, dict):
        raise refusals.bad_request("The body must be a JSON object.")
    kind = body.get("schemaType") or "AVRO"
    if str(kind).upper() != "AVRO":
        raise refusals.invalid_schema(f"schema type {kind} is not served; this registry keeps AVRO schemas only")
    text = body.get("schema") or ""
    if not isinstance(text, str):
        raise refusals.invalid_schema("it must be a text")
    return SchemaRequest(
        text=text if text.strip() else "",
        references=_references(body.get("references") or ()),
        metadata=_metadata(body.get("metadata")),
        rule_set=rule_set(body.get("ruleSet")),
        version=max(_integer(body, "version", 0), -1),
        schema_id=max(_integer(body, "id", -1), -1),
        tags_add=_tags(body.get("schemaTagsToAdd")),
        tags_remove=_tags(body.get("schemaTagsToRemove")),
        propagate_tags=body.get("propagateSchemaTags") is True,
    )


def tag_request(body: Any) -> TagRequest:
    """Read a body that changes tags, metadata or rules.

    Raises:
        Refusal: 400 for another shape, 42210 for bad rules.
    """
    if not isinstance(body, dict):
        raise refusals.bad_request("The body must be a JSON object.")
    return TagRequest(
        version=max(_integer(body, "newVersion", 0), 0),
        tags_add=_tags(body.get("tagsToAdd")),
        tags_remove=_tags(body.get("tagsToRemove")),
        metadata=_metadata(body.get("metadata")),
        rule_set=rule_set(body.get("ruleSet")),
        rules_merge=rule_set(body.get("rulesToMerge")),
        rules_remove=frozenset(map(str, body.get("rulesToRemove") or ())),
    )


def _tags(raw: Any) -> tuple[Tagged, ...]:
    try:
        return tuple(
            Tagged(
                str(each["schemaEntity"]["entityPath"]).removeprefix("."), _kind(each), tuple(map(str, each["tags"]))
            )
            for each in raw or ()
        )
    except (KeyError, TypeError, AttributeError):
        raise refusals.bad_request(
            "each of the tags needs schemaEntity, with entityPath and entityType, and tags."
        ) from None


def _kind(raw: Mapping[str, Any]) -> str:
    kind = str(raw["schemaEntity"]["entityType"]).lower()
    if kind not in (RECORD, FIELD):
        raise refusals.bad_request(f"entityType must be {RECORD} or {FIELD}.")
    return kind


def _integer(body: Mapping[str, Any], name: str, default: int) -> int:
    value = body.get(name)
    try:
        return default if value is None else int(value)
    except (TypeError, ValueError):
        raise refusals.bad_request(f"{name} must be a number.") from None


def _references(raw: Any) -> tuple[Reference, ...]:
    try:
        return tuple(Reference(str(r["name"]), str(r["subject"]), int(r.get("version") or -1)) for r in raw)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise refusals.invalid_schema("each reference needs name, subject and version") from None


def _metadata(raw: Any) -> dict[str, Any] | None:
    if raw is None:
        return None
    if not isinstance(raw, dict):
        raise refusals.bad_request("metadata must be a JSON object.")
    return {k: v for k, v in raw.items() if v} or None


def rule_set(raw: Any) -> dict[str, Any] | None:
    """Read a rule set; kind and mode get their defaults.

    Raises:
        Refusal: 42210 for a rule that no client could carry out.
    """
    if raw is None:
        return None
    if not isinstance(raw, dict):
        raise refusals.invalid_rule_set("it must be a JSON object")
    read: dict[str, Any] = {}
    for kind, modes in _RULE_KINDS.items():
        if rules := [_rule(rule, modes) for rule in raw.get(kind) or ()]:
            names = [rule["name"] for rule in rules]
            if len(set(names)) < len(names):
                raise refusals.invalid_rule_set(f"a rule's name stands twice in {kind}")
            read[kind] = rules
    if raw.get("enableAt"):
        read["enableAt"] = raw["enableAt"]
    return read or None


def _rule(raw: Any, modes: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(raw, dict) or not raw.get("name"):
        raise refusals.invalid_rule_set("a rule has no name")
    if not raw.get("type"):
        raise refusals.invalid_rule_set(f"the rule {raw['name']} has no type")
    default = "WRITEREAD" if "WRITEREAD" in modes else "UPDOWN"
    rule = {"kind": "TRANSFORM", "mode": default, **{k: v for k, v in raw.items() if v is not None}}
    if rule["kind"] not in ("TRANSFORM", "CONDITION"):
        raise refusals.invalid_rule_set(
            f"the rule {raw['name']} has kind {rule['kind']}; it may be TRANSFORM, CONDITION"
        )
    if rule["mode"] not in modes:
        raise refusals.invalid_rule_set(f"the rule {raw['name']} has mode {rule['mode']}; it may be {', '.join(modes)}")
    return rule


def config_request(body: Any) -> dict[str, Any]:
    """Read a configuration update; only the fields that were sent, `compatibility` as `compatibilityLevel`.

    Raises:
        Refusal: 42203 for an unknown level, 400 for another shape.
    """
    if not isinstance(body, dict):
        raise refusals.bad_request("The body must be a JSON object.")
    update = {name: body[name] for name in _CONFIG_FIELDS if name in body}
    for name in ("compatibilityLevel", "compatibility"):
        if body.get(name) is not None:
            update["compatibilityLevel"] = _level(body[name])
    if (policy := update.get("compatibilityPolicy")) is not None and policy not in _POLICIES:
        raise refusals.bad_request(f"compatibilityPolicy must be one of {', '.join(_POLICIES)}.")
    for name in ("defaultRuleSet", "overrideRuleSet"):
        if name in update:
            update[name] = rule_set(update[name])
    return update


def _level(raw: Any) -> str:
    try:
        return str(Level(str(raw).upper()))
    except ValueError:
        raise refusals.invalid_level() from None


def mode_request(body: Any, subject: str | None) -> str | None:
    """Read a mode update; None: no mode of its own.

    Raises:
        Refusal: 42204 for an unknown mode, or FORWARD elsewhere than globally.
    """
    if not isinstance(body, dict):
        raise refusals.bad_request("The body must be a JSON object.")
    if body.get("mode") is None:
        return None
    mode = str(body["mode"]).upper()
    if mode not in MODES:
        raise refusals.invalid_mode()
    if mode == "FORWARD" and subject is not None:
        raise refusals.forward_is_global()
    return mode


def version_number(text: str) -> int:
    """A version in a path; -1 stands for the newest.

    Raises:
        Refusal: 42202.
    """
    if text == "latest":
        return -1
    try:
        number = int(text)
    except ValueError:
        raise refusals.invalid_version(text) from None
    if number != -1 and not 1 <= number < 2**31:
        raise refusals.invalid_version(text)
    return number
