"""What a new version takes over from the one before it, and from the configuration (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from instep_schemas.registry.avro_text import Content
from instep_schemas.registry.store import VERSION, Store, metadata_version

RULES: Final = ("migrationRules", "domainRules", "encodingRules")
_CONFIGURED: Final = ("defaultMetadata", "overrideMetadata", "defaultRuleSet", "overrideRuleSet")


def is_configured(config: Mapping[str, Any]) -> bool:
    """Whether the configuration adds metadata or rules to every new version."""
    return any(config.get(name) for name in _CONFIGURED)


def completed(store: Store, subject: str, content: Content, number: int | None) -> Content:
    """The content with its metadata and rules, or the previous version's, over the defaults, under the overrides.

    Args:
        store: the state.
        subject: under which it is registered.
        content: as sent.
        number: what `confluent:version` in the metadata must say; None: left as it is, and not added.
    """
    config, last = store.effective_config(subject), store.latest(subject)
    metadata = content.metadata if content.metadata is not None or last is None else last.content.metadata
    rules = content.rule_set if content.rule_set is not None or last is None else last.content.rule_set
    metadata = _merge_metadata(_merge_metadata(config.get("defaultMetadata"), metadata), config.get("overrideMetadata"))
    rules = merge_rules(merge_rules(config.get("defaultRuleSet"), rules), config.get("overrideRuleSet"))
    if number is not None:
        metadata = numbered(metadata, number)
    return Content(content.text, content.references, metadata, rules)


def has_number(store: Store, subject: str, content: Content) -> bool:
    """Whether the completed content says which version it is."""
    return metadata_version(completed(store, subject, content, None).metadata) is not None


def numbered(metadata: Mapping[str, Any] | None, number: int) -> dict[str, Any]:
    """The metadata with its `confluent:version`."""
    properties = {**((metadata or {}).get("properties") or {}), VERSION: str(number)}
    return {**(metadata or {}), "properties": properties}


def _merge_metadata(lower: Mapping[str, Any] | None, upper: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if not lower or not upper:
        return upper or lower or None
    merged: dict[str, Any] = {
        part: {**(lower.get(part) or {}), **(upper.get(part) or {})} for part in ("tags", "properties")
    }
    merged["sensitive"] = sorted({*(lower.get("sensitive") or ()), *(upper.get("sensitive") or ())})
    return {part: value for part, value in merged.items() if value}


def merge_rules(lower: Mapping[str, Any] | None, upper: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Both rule sets; of two rules with one name, the upper one, and in its place."""
    if not lower or not upper:
        return upper or lower or None
    merged = {**lower, **upper}
    for kind in RULES:
        above = {rule["name"]: rule for rule in upper.get(kind) or ()}
        rules = [rule for rule in lower.get(kind) or () if rule["name"] not in above]
        if rules := [*rules, *above.values()]:
            merged[kind] = rules
    return merged
