"""Where a document's columns live in Tryton: products (template and variant) and parties (with contact mechanisms).

No I/O: an object says what to read, understands the answer, and gives the body of the one call that changes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from instep_connectors.crm.tryton_values import TYPES, Catalogue, Field, decode, pick

MECHANISMS: Final = ("phone", "mobile", "fax", "email", "website", "skype", "sip", "irc", "jabber", "other")
"""Tryton's types of contact mechanisms."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one delivered column lives.

    Attributes:
        column: the column's name.
        part: `template`, `variant`, `party` or `mechanism`.
        field: the field there.
        kind: type of the contact mechanism.
        label: name of the contact mechanism; empty: any that no other column claims.
    """

    column: str
    part: str
    field: Field
    kind: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """A record as Tryton holds it.

    Attributes:
        id: of the record people open (product template, party).
        active: seen by people; a template's and a variant's flag together.
        values: by column.
        refs: what a change needs: the variant, whether it is the only one, contact mechanisms by column.
    """

    id: int
    active: bool
    values: Mapping[str, Any]
    refs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Call:
    """A call relative to `…/rest/model/`."""

    path: str
    body: Any


class TrytonObject(Protocol):
    """One object type that documents can become."""

    models: tuple[str, ...]
    """Models whose fields columns may name; the first is the one that is created."""
    read_model: str

    def slot(self, column: str, catalogues: Mapping[str, Catalogue]) -> Slot | None:
        """Where the column lives; None: nowhere."""
        ...

    def names(self, slots: Sequence[Slot]) -> list[str]:
        """Fields to read."""
        ...

    def held(self, raw: Mapping[str, Any], slots: Sequence[Slot]) -> Held:
        """Understand one record that was read."""
        ...

    def creation(self, key: str, values: Mapping[Slot, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
        """Body that creates the record in `models[0]`."""
        ...

    def change(self, held: Held, values: Mapping[Slot, Any], active: bool | None) -> Call:
        """The call that sets these values, and the active flag unless None."""
        ...

    def deletion(self, held: Held) -> str:
        """Path of the record to DELETE."""
        ...


def _writable(catalogue: Catalogue, column: str) -> Field | None:
    found = catalogue.get(column)
    usable = found is not None and found.writable and found.type in TYPES and column not in ("active", "code")
    return found if usable else None


class Product:
    """`product.product`: one template with one variant for each document; the key is the variant's code."""

    models: tuple[str, ...] = ("product.template", "product.product")
    read_model = "product.product"

    def slot(self, column: str, catalogues: Mapping[str, Catalogue]) -> Slot | None:
        """A template's field if there is one, else a variant's (which mirrors the template's, read-only)."""
        for part, model in zip(("template", "variant"), self.models, strict=True):
            found = _writable(catalogues[model], column)
            if found is not None:
                return Slot(column, part, found)
        return None

    def names(self, slots: Sequence[Slot]) -> list[str]:
        """Template fields are read through the variant."""
        return ["code", "active", "template.active", "template.products", "list_price", *map(self._path, slots)]

    @staticmethod
    def _path(slot: Slot) -> str:
        if slot.column == "list_price":
            return "list_price_used"  # the variant's own price, which a person may have set, wins over the template's
        return f"template.{slot.field.read_name}" if slot.part == "template" else slot.field.read_name

    def held(self, raw: Mapping[str, Any], slots: Sequence[Slot]) -> Held:
        """Understand one variant."""
        return Held(
            pick(raw, "template.id"),
            bool(raw["active"] and pick(raw, "template.active")),
            {slot.column: decode(slot.field, pick(raw, self._path(slot))) for slot in slots},
            {
                "variant": raw["id"],
                "single": len(pick(raw, "template.products") or ()) <= 1,
                "own price": raw.get("list_price") is not None,
            },
        )

    def creation(self, key: str, values: Mapping[Slot, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
        """Template with its variant."""
        template = {slot.field.name: value for slot, value in values.items() if slot.part == "template"}
        variant = {slot.field.name: value for slot, value in values.items() if slot.part == "variant"}
        if "default_uom" in template and "sale_uom" in defaults:
            template.setdefault("sale_uom", template["default_uom"])  # Tryton wants both of one category
        return {**defaults, **template, "products": [["create", [{"suffix_code": key, **variant}]]]}

    def change(self, held: Held, values: Mapping[Slot, Any], active: bool | None) -> Call:
        """One call: the template with its variant nested, or the variant alone, which is cheaper."""
        template = {slot.field.name: value for slot, value in values.items() if slot.part == "template"}
        variant = {slot.field.name: value for slot, value in values.items() if slot.part == "variant"}
        if "list_price" in template and held.refs["own price"]:
            variant["list_price"] = None
        if active is not None:
            variant["active"] = active
            if active or held.refs["single"]:  # a template with more variants stays for the others
                template["active"] = active
        if not template:
            return Call(f"product.product/{held.refs['variant']}", variant)
        nested = {"products": [["write", [held.refs["variant"]], variant]]} if variant else {}
        return Call(f"product.template/{held.id}", {**template, **nested})

    def deletion(self, held: Held) -> str:
        """The template takes its only variant along."""
        single = held.refs["single"]
        return f"product.template/{held.id}" if single else f"product.product/{held.refs['variant']}"


class Party:
    """`party.party`: the key is its code; `email`, `phone`, `other`, `other_<name>` … are contact mechanisms."""

    models: tuple[str, ...] = ("party.party", "party.contact_mechanism")
    read_model = "party.party"

    def slot(self, column: str, catalogues: Mapping[str, Catalogue]) -> Slot | None:
        """A contact mechanism by its type (and name), else a field of the party."""
        kind, _, label = column.partition("_")
        if kind in MECHANISMS:
            value = catalogues["party.contact_mechanism"]["value"]
            return Slot(column, "mechanism", value, kind, label.replace("_", " "))
        found = _writable(catalogues["party.party"], column)
        return Slot(column, "party", found) if found is not None else None

    def names(self, slots: Sequence[Slot]) -> list[str]:
        """Contact mechanisms are read with the party."""
        parts = ("id", "type", "name", "value", "active") if any(slot.part == "mechanism" for slot in slots) else ()
        own = [slot.field.read_name for slot in slots if slot.part == "party"]
        return ["code", "active", *own, *(f"contact_mechanisms.{part}" for part in parts)]

    def held(self, raw: Mapping[str, Any], slots: Sequence[Slot]) -> Held:
        """Understand one party."""
        mechanisms = [each for each in raw.get("contact_mechanisms.") or () if each["active"]]
        labels = {(slot.kind, slot.label) for slot in slots if slot.label}
        values: dict[str, Any] = {}
        refs: dict[str, Any] = {}
        for slot in slots:
            if slot.part == "party":
                values[slot.column] = decode(slot.field, pick(raw, slot.field.read_name))
                continue
            found = next((each for each in mechanisms if _fits(slot, each, labels)), None)
            values[slot.column] = found["value"] if found else None
            refs[slot.column] = found["id"] if found else None
        return Held(raw["id"], raw["active"], values, refs)

    def creation(self, key: str, values: Mapping[Slot, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
        """Party with its contact mechanisms."""
        own = {slot.field.name: value for slot, value in values.items() if slot.part == "party"}
        new = [_mechanism(slot, value) for slot, value in values.items() if slot.part == "mechanism" and value]
        mechanisms = {"contact_mechanisms": [["create", new]]} if new else {}
        return {**defaults, **own, "code": key, "addresses": [], **mechanisms}

    def change(self, held: Held, values: Mapping[Slot, Any], active: bool | None) -> Call:
        """One call: the party with its contact mechanisms nested."""
        body = {slot.field.name: value for slot, value in values.items() if slot.part == "party"}
        nested = [
            _mechanism_change(slot, value, held.refs[slot.column])
            for slot, value in values.items()
            if slot.part == "mechanism"
        ]
        if nested:
            body["contact_mechanisms"] = nested
        if active is not None:
            body["active"] = active
        return Call(f"party.party/{held.id}", body)

    def deletion(self, held: Held) -> str:
        """The party itself."""
        return f"party.party/{held.id}"


def _fits(slot: Slot, mechanism: Mapping[str, Any], labels: set[tuple[str, str]]) -> bool:
    kind, label = mechanism["type"], mechanism["name"] or ""
    if kind != slot.kind:
        return False
    return label == slot.label if slot.label else (kind, label) not in labels


def _mechanism(slot: Slot, value: Any) -> dict[str, Any]:
    return {"type": slot.kind, "value": value, **({"name": slot.label} if slot.label else {})}


def _mechanism_change(slot: Slot, value: Any, found: int | None) -> list[Any]:
    if found is None:
        return ["create", [_mechanism(slot, value)]]
    return ["write", [found], {"value": value}] if value else ["delete", [found]]


OBJECTS: Final[Mapping[str, TrytonObject]] = {"product.product": Product(), "party.party": Party()}
