"""Compare what our capture wrote with a recording: equal, a documented exception, or where the first difference is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from tests.golden.deviations import (
    DEATHS,
    adjusted,
    copied_again,
    default_key,
    dropped_table,
    excuse,
    keyless_copy,
    left_out_key,
    of_a_copy,
    reason,
    renamed_away,
    unlike_the_store,
)
from tests.golden.replay import Replayed
from tests.golden.volatile import check_relations, decode, encode, masked

from instep.topics import key_subject, value_subject
from instep_connectors.kafka import Record
from instep_schemas.records import unframe
from instep_schemas.wire import EXCEPTIONS

_ALLOWED = re.compile(r'"allowed":"[^"]*"')
_RUN = "__debezium.context.runId"


class Verdict(NamedTuple):
    """How a case came out.

    Attributes:
        difference: the first one, empty for none.
        exceptions: names in `wire.EXCEPTIONS` that were met.
    """

    difference: str
    exceptions: frozenset[str]

    def __str__(self) -> str:
        if self.difference:
            return f"different: {self.difference}"
        return f"documented exception: {', '.join(sorted(self.exceptions))}" if self.exceptions else "equal"


class Told(NamedTuple):
    """One record, decoded, volatile values replaced.

    Attributes:
        key: decoded, None for null.
        value: decoded, None for null.
        key_hex: body, volatile values replaced.
        value_hex: the same.
        headers: names and texts.
        schemas: texts of the key's and the value's schema.
    """

    key: Any
    value: Any
    key_hex: str | None
    value_hex: str | None
    headers: list[tuple[str, str]]
    schemas: tuple[str | None, str | None]


def compare(case: dict[str, Any], ours: Replayed) -> Verdict:
    """Compare one case."""
    return _Comparison(case, ours).verdict()


@dataclass
class _Comparison:
    case: dict[str, Any]
    ours: Replayed
    exceptions: set[str] = field(default_factory=set)

    def verdict(self) -> Verdict:
        difference = next(self._differences(), "")
        return Verdict(difference, frozenset(self.exceptions))

    def _differences(self) -> Iterator[str]:
        failed = bool(self.case.get("task_failed"))
        own_fault = any(cause in str(self.case.get("task_failed")) for cause in DEATHS)
        if own_fault and self.ours.failure is None and not self.ours.dead:
            self.exceptions.add("connector-death")
        if " share the topic " in str(self.ours.failure):
            self.exceptions.add("shared-topic")
            return
        if self.ours.failure is not None and not failed:
            yield f"ours ended: {self.ours.failure}"
        expected: dict[str, list[dict[str, Any]]] = {}
        for record in self.case["records"]:
            expected.setdefault(record["topic"], []).append(record)
        for topic in sorted({*expected, *self.ours.records}):
            yield from self._topic(topic, expected.get(topic, []))
        yield from self._subjects()
        if failed and self.ours.failure is None and not self.exceptions:
            yield f"theirs ended, ours did not: {self.case['task_failed'][-1]}"

    def _subjects(self) -> Iterator[str]:
        theirs = self._their_subjects
        for subject in sorted({*theirs, *self.ours.subjects}):
            mine = self.ours.subjects.get(subject, [])
            if mine != theirs.get(subject, []) and not self._excused_subject(subject):
                yield f"subject {subject}: {_first_difference(mine, theirs.get(subject, []))}"

    def _excused_subject(self, subject: str) -> bool:
        """Versions that only records behind their task's end use, or of records that we refused."""
        mine, theirs = self.ours.subjects.get(subject, []), self._their_subjects.get(subject, [])
        if "enum-labels" in self.exceptions:
            mine, theirs = (list(dict.fromkeys(_ALLOWED.sub("", text) for text in texts)) for texts in (mine, theirs))
        if "dropped-table" in self.exceptions and key_subject(subject.rpartition("-")[0]) not in self._their_subjects:
            return True
        if "left-out-key" in self.exceptions and subject.endswith("-key"):  # made for the keys of zeros
            theirs = [text for text in theirs if text in mine]
        shorter = min(len(mine), len(theirs))
        return bool(self.exceptions) and mine[:shorter] == theirs[:shorter]

    # ---- records

    def _topic(self, topic: str, expected: list[dict[str, Any]]) -> Iterator[str]:
        theirs = [self._theirs(record) for record in expected]
        mine = [self._mine(topic, record) for record in self.ours.records.get(topic, [])]
        if _beats(mine or theirs):  # how many there are depends on the time it took
            mine, theirs = mine[:1], theirs[:1]
        if self.case["config"].get("heartbeat.action.query"):  # and so it does of what the statement changes
            mine, theirs = _once(mine), _once(theirs)
        dead = [each for each in self.ours.dead if each["topic"] == topic]
        at = here = 0
        while at < len(theirs) or here < len(mine):
            step = self._step(topic, theirs[at:], mine[here:], dead)
            if isinstance(step, str):
                yield f"{topic}[{at}] {step}"
                return
            at, here = at + step[0], here + step[1]

    def _step(self, topic: str, theirs: list[Told], mine: list[Told], dead: list[dict[str, Any]]) -> Any:
        """How many records of both sides belong together, or how the first ones differ."""
        difference = self._pair(topic, theirs, mine)
        if not difference:
            return 1, 1
        if len(theirs) > 2 and mine and _moved_by_unknown_key(theirs, mine[0]):
            self.exceptions.add("unknown-key")
            return 3, 1
        if dead and theirs:
            letter = dead.pop(0)
            self.exceptions.add(reason(letter))
            if reason(letter) not in EXCEPTIONS:
                return f"dead letter: {letter['message']}"
            return _of_one_change(theirs), 0
        if not theirs and self.case.get("task_failed"):
            if dead or self.ours.dead:
                self.exceptions.add(reason((dead or self.ours.dead)[0]))
            return 0, 1
        if mine and "replica.identity.autoset.values" in self.case["config"] and 'TABLE "' in str(self.case["ddl"]):
            self.exceptions.add("identity-given-up")
            return min(len(theirs), 1), 1
        if theirs and copied_again(self.case, theirs[0]):
            self.exceptions.add("copied-again")
            return 1, 0
        if mine and "copied-again" in self.exceptions:
            return 0, 1
        if self._stops and theirs and of_a_copy(theirs[0]):
            self.exceptions.add("unheeded-stop")
            return 1, 0
        if theirs and not mine and renamed_away(self.case):
            self.exceptions.add("renamed-away")
            return 1, 0
        if mine and keyless_copy(mine[0].key, mine[0].value):
            self.exceptions.add("keyless-copy")
            return 0, 1
        return difference

    def _pair(self, topic: str, theirs: list[Told], mine: list[Told]) -> str:
        if not theirs or not mine:
            if not theirs and not mine:
                return ""
            one = (mine or theirs)[0]
            return f"only {'ours' if mine else 'theirs'}: {_short(one.key)} {_short(one.value)}"
        return self._differ(mine[0], theirs[0])

    def _differ(self, mine: Told, theirs: Told) -> str:
        if left_out_key((mine.key, theirs.key), mine.value, theirs.value) and mine.key_hex != theirs.key_hex:
            self.exceptions.add("left-out-key")
        elif default_key(mine.schemas[0], mine.key, theirs.key):
            self.exceptions.add("null-with-default")
        elif mine.key_hex != theirs.key_hex and dropped_table(self.case, mine, theirs):
            self.exceptions.add("dropped-table")
            return ""
        elif mine.key_hex != theirs.key_hex:
            return f"key: {_first_difference(mine.key, theirs.key)}"
        if mine.headers != theirs.headers:
            return f"headers: {_first_difference(mine.headers, theirs.headers)}"
        if mine.schemas != theirs.schemas and not (
            "left-out-key" in self.exceptions and mine.schemas[1] == theirs.schemas[1]
        ):
            if _labels_aside(mine) != _labels_aside(theirs):
                return f"schema: {_first_difference(list(mine.schemas), list(theirs.schemas))}"
            self.exceptions.add("enum-labels")
        if mine.value_hex == theirs.value_hex:
            return ""
        found = list(_columns(mine.value, theirs.value))
        names = {self._excuse(mine, *each) for each in found}
        if found and None not in names and _only_columns(mine.value, theirs.value):
            self.exceptions |= {name for name in names if name}
            return ""
        return _first_difference(mine.value, theirs.value) or "value bytes"

    @property
    def _stops(self) -> bool:
        return "stop-snapshot" in str(self.case["dml"])

    # ---- decoding

    @cached_property
    def _their_subjects(self) -> dict[str, list[str]]:
        told: dict[str, list[str]] = self.case["subjects"]
        if self.case["config"].get("schema.name.adjustment.mode", "none") != "none":
            return told
        mended = {subject: list(map(adjusted, texts)) for subject, texts in told.items()}
        if mended != told:
            self.exceptions.add("adjusted-names")
        return mended

    def _theirs(self, record: dict[str, Any]) -> Told:
        texts = tuple(
            self._their_subjects[each["subject"]][each["version"] - 1] if each else None
            for each in (record["key_schema_subject"], record["value_schema_subject"])
        )
        bodies = tuple(
            None if each is None else bytes.fromhex(each) for each in (record["key_hex"], record["value_hex"])
        )
        return self._told((texts[0], texts[1]), (bodies[0], bodies[1]), [(n, str(v)) for n, v in record["headers"]])

    def _mine(self, topic: str, record: Record) -> Told:
        texts: list[str | None] = []
        bodies: list[bytes | None] = []
        for part, subject in ((record.key, key_subject(topic)), (record.value, value_subject(topic))):
            schema_id, body = (None, None) if part is None else unframe(part)
            text = None if schema_id is None else self.ours.texts[schema_id]
            assert text is None or text in self.ours.subjects[subject]
            texts.append(text)
            bodies.append(body)
        headers = [(name, value.decode()) for name, value in record.headers]
        told = self._told((texts[0], texts[1]), (bodies[0], bodies[1]), headers)
        check_relations(decode(texts[1], bodies[1]))
        return told

    def _told(
        self, texts: tuple[str | None, str | None], bodies: tuple[bytes | None, bytes | None],
        headers: list[tuple[str, str]],
    ) -> Told:  # fmt: skip
        plain = [decode(text, body) for text, body in zip(texts, bodies, strict=True)]
        for text, body, each in zip(texts, bodies, plain, strict=True):
            assert body is None or encode(text, each) == body.hex(), "not the bytes that fastavro writes"
        key, value = masked(plain[0]), masked(plain[1], top=True)
        hexes = [encode(text, each) for text, each in zip(texts, (key, value), strict=True)]
        shown = [(name, "*" if name == _RUN else value) for name, value in headers]
        return Told(key, value, hexes[0], hexes[1], shown, texts)

    def _excuse(self, told: Told, image: str, column: str, mine: Any, theirs: Any) -> str | None:
        table = told.value["source"]
        base = self.ours.types.get(f"{table['schema']}.{table['table']}.{column}")
        if unlike_the_store(self.case, base):
            return "store-settings"
        return excuse(told.schemas[1] or "", base, image, column, (mine, theirs))


def _beats(records: list[Told]) -> bool:
    """Whether these are heartbeats."""
    return bool(records) and isinstance(records[0].key, dict) and list(records[0].key) == ["serverName"]


def _once(records: list[Told]) -> list[Told]:
    """Without those that repeat the one before them."""
    return [each for number, each in enumerate(records) if not number or each != records[number - 1]]


def _of_one_change(theirs: list[Told]) -> int:
    """How many of their records come from the change that the first one belongs to."""
    moved = any(name == "__debezium.newkey" for name, _ in theirs[0].headers)
    count = 1
    if count < len(theirs) and theirs[0].value and theirs[0].value.get("op") == "d" and theirs[count].value is None:
        count += 1
    return count + (moved and count < len(theirs))


def _moved_by_unknown_key(theirs: list[Told], mine: Told) -> bool:
    """Their delete of a made-up key, tombstone and create, where we write an update under the key the row has."""
    deleted, tombstone, created = theirs[:3]
    made_up = deleted.value is not None and deleted.value.get("op") == "d" and tombstone.value is None
    return bool(
        made_up
        and created.value is not None
        and mine.value is not None
        and (created.value["op"], mine.value["op"]) == ("c", "u")
        and created.key_hex == mine.key_hex
        and created.value["after"] == mine.value["after"]
    )


def _labels_aside(told: Told) -> list[str]:
    """A record's schemas without what they tell of enum labels."""
    return [_ALLOWED.sub("", text or "") for text in told.schemas]


def _columns(mine: Any, theirs: Any) -> Iterator[tuple[str, str, Any, Any]]:
    """Columns of both images that differ."""
    if not isinstance(mine, dict) or not isinstance(theirs, dict):
        return
    for image in ("before", "after"):
        left, right = mine.get(image), theirs.get(image)
        if isinstance(left, dict) and isinstance(right, dict):
            yield from (
                (image, name, left[name], right[name]) for name in left if repr(left[name]) != repr(right[name])
            )


def _only_columns(mine: dict[str, Any], theirs: dict[str, Any]) -> bool:
    images = ("before", "after")
    same = all((mine[image] is None) == (theirs[image] is None) for image in images)
    rest = [{k: v for k, v in each.items() if k not in images} for each in (mine, theirs)]
    return same and repr(rest[0]) == repr(rest[1])


def _first_difference(mine: Any, theirs: Any, path: str = "") -> str:
    """The path of the first difference, and both values; empty for none."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for name in dict.fromkeys([*mine, *theirs]):
            if found := _first_difference(mine.get(name), theirs.get(name), f"{path}.{name}".lstrip(".")):
                return found
        return "" if list(mine) == list(theirs) else f"{path}: order {list(mine)} vs {list(theirs)}"
    if isinstance(mine, (list, tuple)) and isinstance(theirs, (list, tuple)):
        for number, (left, right) in enumerate(zip(mine, theirs, strict=False)):
            if found := _first_difference(left, right, f"{path}[{number}]"):
                return found
        return "" if len(mine) == len(theirs) else f"{path}: {len(mine)} vs {len(theirs)} entries"
    if (
        isinstance(mine, str)
        and isinstance(theirs, str)
        and mine != theirs
        and mine[:2] == theirs[:2] == '{"'
        and mine[-1:] == theirs[-1:] == "}"
    ):
        try:
            plain = [json.loads(text, strict=False) for text in (mine, theirs)]
        except ValueError:  # Java's numbers and quotes in a key's header need not be JSON
            return f"{path}: {_short(mine)} vs {_short(theirs)}"
        return _first_difference(plain[0], plain[1], path) or f"{path}: order of attributes"
    return "" if repr(mine) == repr(theirs) else f"{path}: {_short(mine)} vs {_short(theirs)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 160 else f"{text[:157]}…"
