"""Tryton over its REST API: upsert by code, compare before write, deactivate instead of delete.

Delivered columns are named as Tryton fields; the flow's one key column becomes the record's code. Every batch starts
with one search, so that an unchanged record costs no write, a repeated write finds what the first one made, and a
change sends only what differs.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from instep.errors import ConfigError, TargetError
from instep.flowfile import Flow
from instep.protocols import (
    Capabilities,
    Delete,
    Document,
    Fields,
    Key,
    Outcome,
    Rejected,
    Retry,
    Unchanged,
    Written,
)
from instep.settings import TargetSettings
from instep_connectors.crm.http import MISSING, Answer, CrmHttp, Fault
from instep_connectors.crm.tryton_objects import OBJECTS, Call, Held, Slot, TrytonObject
from instep_connectors.crm.tryton_values import Catalogue, Misfit, catalogue, encode, same

READ_PAGE: Final = 200
"""Codes asked for in one search."""

OPTIONS: Final = frozenset({"database", "company", "account_category", "default_uom", "timeout"})


class _Stopped(Exception):
    """A call that concerns the whole batch did not go well."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(getattr(fault, "reason", type(fault).__name__))
        self.fault = fault


@dataclass(frozen=True, slots=True)
class _Desk:
    """What the sink learned when it first connected."""

    base: str
    headers: Mapping[str, str]
    catalogues: Mapping[str, Catalogue]
    defaults: Mapping[str, Any]
    slots: dict[str, Slot] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Creation:
    """A record to create: its document's place in the batch and the body."""

    index: int
    body: dict[str, Any]


class TrytonSink:
    """Writes one flow's documents as products or parties of one Tryton database."""

    def __init__(self, target: TargetSettings, flow: Flow, kind: TrytonObject) -> None:
        self._target, self._flow, self._object = target, flow, kind
        address = urlsplit(target.url)
        self._database = str(target.options.get("database") or address.path.strip("/"))
        self._http = CrmHttp(
            f"Tryton at {address.scheme}://{address.netloc}",
            f"{address.scheme}://{address.netloc}",
            {"Authorization": f"bearer {target.key.reveal()}"},
            timeout=float(target.options.get("timeout", 30)),
        )
        self._desk: _Desk | None = None
        self._connecting = asyncio.Lock()
        self._related: dict[tuple[str, str], int] = {}

    @classmethod
    def open(cls, target: TargetSettings, flow: Flow) -> TrytonSink:
        """Make the sink for one flow; connects at the first write or read.

        Raises:
            ConfigError: a setting of the target, or the flow's object or key, is wrong.
        """
        kind = OBJECTS.get(flow.object)
        if kind is None:
            raise ConfigError(
                f"Flow {flow.name} names the object {flow.object!r}, which the Tryton sink does not know.",
                f"Known: {', '.join(sorted(OBJECTS))}.",
            )
        if len(flow.key) != 1:
            raise ConfigError(f"Flow {flow.name} has a key of {len(flow.key)} columns.", "Tryton's code is one column.")
        if unknown := sorted(set(target.options) - OPTIONS):
            raise ConfigError(f"The Tryton target has no setting {unknown[0]!r}.", f"Known: {', '.join(OPTIONS)}.")
        if urlsplit(target.url).scheme not in ("http", "https"):
            raise ConfigError("The Tryton target's `url` is no address.", "Give http://HOST:PORT or https://HOST.")
        return cls(target, flow, kind)

    @property
    def capabilities(self) -> Capabilities:
        """Small batches: one search serves all, then each changed record takes one call of 15 to 30 ms."""
        return Capabilities(batch_size=16, concurrency=4, upsert_by_key=False, calls_per_document=1.1)

    async def write(self, batch: Sequence[Document], /) -> Sequence[Outcome]:
        """Bring the documents into Tryton; one outcome each, in order.

        Raises:
            TargetError: the key is refused, or this is no Tryton.
            ConfigError: a delivered column is no field of this Tryton.
        """
        try:
            desk = await self._connected()
            slots = self._slots(desk, [document.fields for document in batch if document.fields is not None])
            held = await self._find(desk, [document.key for document in batch], slots)
        except _Stopped as stopped:
            return [stopped.fault] * len(batch)
        outcomes: dict[int, Outcome] = {}
        creations: list[_Creation] = []
        for index, document in enumerate(batch):
            try:
                step = await self._write_one(desk, slots, document, held.get(document.key))
            except _Stopped as stopped:
                step = stopped.fault
            if isinstance(step, dict):
                creations.append(_Creation(index, step))
            else:
                outcomes[index] = step
        outcomes |= await self._create(desk, creations)
        return [outcomes[index] for index in range(len(batch))]

    async def read(self, keys: Sequence[Key], /) -> Mapping[Key, Fields]:
        """What Tryton holds: the delivered columns (without the key) of active records.

        Raises:
            ConnectionError: Tryton cannot answer now.
            TargetError: the key is refused, or this is no Tryton.
            ConfigError: a delivered column is no field of this Tryton.
        """
        try:
            desk = await self._connected()
            slots = self._slots(desk, ())
            found = await self._find(desk, keys, slots)
        except _Stopped as stopped:
            raise ConnectionError(str(stopped)) from None
        return {key: dict(held.values) for key, held in found.items() if held.active}

    async def aclose(self) -> None:
        """Close the connections. Safe to call twice."""
        await self._http.aclose()

    # --- one document

    async def _write_one(
        self, desk: _Desk, slots: Sequence[Slot], document: Document, held: Held | None
    ) -> Outcome | dict[str, Any]:
        """Change or remove the record; a record to create is given as its body, so that creations go together."""
        if document.fields is None:
            return await self._remove(desk, held)
        own = [slot for slot in slots if slot.column in document.fields]
        if self._flow.delivered is not None and len(own) < len(slots):
            missing = next(slot.column for slot in slots if slot.column not in document.fields)
            return Rejected("COLUMN", f"the flow delivers {missing}, but this document does not have it", missing)
        values: dict[Slot, Any] = {}
        for slot in self._differing(own, document.fields, held):
            try:
                values[slot] = await self._encode(desk, slot, document.fields[slot.column])
            except Misfit as exc:
                return Rejected("TYPE", str(exc), slot.column)
        if held is None:
            return self._object.creation(document.key[0], values, desk.defaults)
        if held.active and not values:
            return Unchanged(str(held.id))
        outcome: Outcome = Written(str(held.id))
        if not held.active:  # Tryton lets nobody change a record that is not active, so this comes first
            outcome = await self._put(desk, self._object.change(held, {}, True), held)
        if values and isinstance(outcome, Written):
            outcome = await self._put(desk, self._object.change(held, values, None), held)
        return outcome

    @staticmethod
    def _differing(slots: Sequence[Slot], fields: Fields, held: Held | None) -> list[Slot]:
        if held is None:
            return [slot for slot in slots if fields[slot.column] is not None]
        return [
            slot
            for slot in slots
            if not same(slot.field, held.values[slot.column], fields[slot.column])
            and not (slot.part == "mechanism" and not fields[slot.column] and held.values[slot.column] is None)
        ]

    async def _remove(self, desk: _Desk, held: Held | None) -> Outcome:
        rule = self._flow.delete
        if held is None or rule is Delete.IGNORE or (rule is Delete.DEACTIVATE and not held.active):
            return Unchanged("" if held is None else str(held.id))
        if rule is Delete.DELETE:
            path = f"{desk.base}{self._object.deletion(held)}"
            return self._settled(await self._http.write("DELETE", path, None, desk.headers), held)
        return await self._put(desk, self._object.change(held, {}, False), held)

    async def _put(self, desk: _Desk, call: Call, held: Held) -> Outcome:
        return self._settled(
            await self._http.write("PUT", f"{desk.base}{call.path}?f=id", call.body, desk.headers), held
        )

    @staticmethod
    def _settled(result: Answer | Fault, held: Held) -> Outcome:
        if isinstance(result, Answer):
            return Written(str(held.id))
        if isinstance(result, Rejected) and result.code == MISSING:
            return Retry("the record vanished between search and write", 0.0)
        return result

    async def _encode(self, desk: _Desk, slot: Slot, value: Any) -> Any:
        relation = slot.field.relation
        if slot.field.type == "many2one" and isinstance(value, str) and (relation, value) not in self._related:
            found = await self._search(desk, relation, [["rec_name", "=", value]], ["id"], limit=2)
            if len(found) != 1:
                raise Misfit(f"{slot.field.name} of Tryton: {len(found)} records of {relation} have this name")
            self._related[relation, value] = found[0]["id"]
        return encode(slot.field, value, self._related)

    # --- creations

    async def _create(self, desk: _Desk, creations: Sequence[_Creation]) -> dict[int, Outcome]:
        """Create together; Tryton makes all or none, so a refusal of several is looked into one by one."""
        if not creations:
            return {}
        path = f"{desk.base}{self._object.models[0]}/create"
        result = await self._http.write("POST", path, {"vlist": [each.body for each in creations]}, desk.headers)
        if isinstance(result, Answer):
            return {each.index: Written(str(id_), True) for each, id_ in zip(creations, result.body, strict=True)}
        if len(creations) == 1 or not isinstance(result, Rejected):
            return {each.index: result for each in creations}
        outcomes: dict[int, Outcome] = {}
        for each in creations:
            outcomes |= await self._create(desk, [each])
        return outcomes

    # --- what is there

    async def _find(self, desk: _Desk, keys: Sequence[Key], slots: Sequence[Slot]) -> dict[Key, Held]:
        found: dict[Key, Held] = {}
        names = self._object.names(slots)
        for start in range(0, len(keys), READ_PAGE):
            codes = [key[0] for key in keys[start : start + READ_PAGE]]
            for raw in await self._search(desk, self._object.read_model, [["code", "in", codes]], names):
                key, held = (raw["code"],), self._object.held(raw, slots)
                # Inactive products may share a code: the active one counts, else the newest.
                if key not in found or (held.active, held.id) > (found[key].active, found[key].id):
                    found[key] = held
        return found

    async def _search(
        self, desk: _Desk, model: str, domain: Sequence[Any], names: Sequence[str], limit: int | None = None
    ) -> list[dict[str, Any]]:
        body = {"domain": domain, "fields_names": list(names), "limit": limit}
        return list(await self._ask(f"{desk.base}{model}/search_read", body, desk.headers))

    async def _ask(self, path: str, body: Any, headers: Mapping[str, str]) -> Any:
        result = await self._http.read("POST", path, body, headers)
        if isinstance(result, Answer):
            return result.body
        if isinstance(result, Rejected):
            raise TargetError(
                f"Tryton refuses to answer {path.rsplit('/', 1)[-1]}: {result.message}",
                "Check the target's `url`, its database and the rights of the key's user.",
            )
        raise _Stopped(result)

    def _slots(self, desk: _Desk, documents: Sequence[Fields]) -> list[Slot]:
        """Places of the delivered columns; without `fields` in the flow's header, of all that documents have had."""
        columns = self._flow.delivered
        if columns is None:
            columns = tuple(dict.fromkeys((*desk.slots, *(name for each in documents for name in each))))
        for column in columns:
            if column not in desk.slots and column not in self._flow.key:
                desk.slots[column] = self._slot(desk, column)
        return [desk.slots[column] for column in columns if column not in self._flow.key]

    def _slot(self, desk: _Desk, column: str) -> Slot:
        slot = self._object.slot(column, desk.catalogues)
        if slot is None:
            raise ConfigError(
                f"Flow {self._flow.name} delivers the column {column}, "
                f"which is no field of {self._flow.object} that this Tryton lets one write.",
                "Name it as a field, or list the delivered columns in the header: fields = [...].",
            )
        return slot

    # --- first contact

    async def _connected(self) -> _Desk:
        async with self._connecting:
            if self._desk is None:
                self._desk = await self._connect()
            return self._desk

    async def _connect(self) -> _Desk:
        base = f"{await self._find_database()}/rest/model/"
        preferences = await self._ask(f"{base}res.user/get_preferences", {"context_only": True}, {})
        # active_test: without it Tryton cannot be asked to change a record that is not active (404).
        context = {"active_test": False, "language": preferences.get("language")}
        plain = _Desk(base, _context(context), {}, {})
        company = await self._company(plain, preferences)
        headers = _context({**context, "company": company} if company else context)
        models = dict.fromkeys(self._object.models)
        catalogues = {
            model: catalogue(await self._ask(f"{base}{model}/fields_get", {"fields_names": None}, headers))
            for model in models
        }
        desk = _Desk(base, headers, catalogues, {})
        return _Desk(base, headers, catalogues, await self._defaults(desk))

    async def _find_database(self) -> str:
        if self._database:
            return self._database
        try:
            answer = await self._ask("rpc/", {"id": 0, "method": "common.db.list", "params": []}, {})
        except TargetError:  # a Tryton may keep its databases to itself
            answer = None
        found = answer.get("result") if isinstance(answer, dict) else None
        if not isinstance(found, list) or len(found) != 1:
            raise ConfigError("The Tryton target does not say which database.", "Set `database` of the target.")
        return str(found[0])

    async def _company(self, desk: _Desk, preferences: Mapping[str, Any]) -> int | None:
        wanted = self._target.options.get("company")
        if wanted is None:
            company = preferences.get("company")
            return int(company) if company else None
        return await self._named(desk, "company.company", "company", wanted, [])

    async def _defaults(self, desk: _Desk) -> dict[str, Any]:
        """What a new product needs besides the document's columns; columns of the same name win."""
        if self._object.models[0] != "product.template":
            return {}
        options, fields = self._target.options, desk.catalogues["product.template"]
        uom = await self._named(desk, "product.uom", "default_uom", options.get("default_uom", "Unit"), [])
        defaults: dict[str, Any] = {"type": "goods", "default_uom": uom}
        if "salable" in fields:
            defaults |= {"salable": True, "sale_uom": uom}
        if "account_category" in fields:
            wanted, domain = options.get("account_category"), [["accounting", "=", True]]
            if wanted is not None:
                domain_id = await self._named(desk, "product.category", "account_category", wanted, domain)
                return defaults | {"account_category": domain_id}
            found = await self._search(desk, "product.category", domain, ["id"], limit=1)
            defaults |= {"account_category": found[0]["id"]} if found else {}
        return defaults

    async def _named(self, desk: _Desk, model: str, setting: str, wanted: Any, domain: list[Any]) -> int:
        clause = ["id", "=", wanted] if isinstance(wanted, int) else ["rec_name", "=", wanted]
        found = await self._search(desk, model, [*domain, clause], ["id"], limit=2)
        if len(found) != 1:
            raise ConfigError(
                f"Tryton has {len(found)} records of {model} for the setting {setting} = {wanted!r}.",
                f"Set `{setting}` of the target to one's name or number.",
            )
        return int(found[0]["id"])


def _context(context: Mapping[str, Any]) -> dict[str, str]:
    return {"X-Tryton-Context": base64.urlsafe_b64encode(json.dumps(context).encode()).decode()}
