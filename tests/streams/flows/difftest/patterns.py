"""Texts that a regular expression of a CHECK constraint accepts; of what is not understood, perhaps none."""

from __future__ import annotations

import random
import re
from typing import Final

_CLASSES: Final = {"d": "0123456789", "w": "ab12", "s": " "}
_POSIX: Final = {"alpha": "a-zA-Z", "digit": "0-9", "alnum": "a-z0-9", "upper": "A-Z", "lower": "a-z", "space": " "}
_ANY: Final = "abc12"
_MOST: Final = 2


def texts(pattern: str, count: int) -> list[str]:
    """Some texts, always the same for a pattern; the caller has to try them."""
    rnd = random.Random(pattern)
    for name, members in _POSIX.items():
        pattern = pattern.replace(f"[:{name}:]", members)
    try:
        return list(dict.fromkeys(_Reader(pattern, rnd).alternatives() for _ in range(count)))
    except (IndexError, ValueError):
        return []


class _Reader:
    """Reads a pattern once and writes one text."""

    def __init__(self, pattern: str, rnd: random.Random) -> None:
        self._rest, self._rnd = pattern, rnd

    def alternatives(self) -> str:
        """`a|b` up to the end or a closing parenthesis."""
        found = [self._sequence()]
        while self._rest.startswith("|"):
            self._rest = self._rest[1:]
            found.append(self._sequence())
        return self._rnd.choice(found)

    def _sequence(self) -> str:
        text = ""
        while self._rest and self._rest[0] not in "|)":
            start = self._rest
            once = self._one()
            least, most = self._times()
            after = self._rest
            for number in range(self._rnd.randint(least, most)):
                if number:
                    self._rest = start
                    once = self._one()
                text += once
            self._rest = after
        return text

    def _one(self) -> str:
        first, self._rest = self._rest[0], self._rest[1:]
        if first == "(":
            self._rest = re.sub(r"^\?:", "", self._rest)
            inside = self.alternatives()
            self._rest = self._rest[1:]
            return inside
        if first == "[":
            return self._rnd.choice(self._members())
        if first == "\\":
            first, self._rest = self._rest[0], self._rest[1:]
            return self._rnd.choice(_CLASSES.get(first, first))
        return "" if first in "^$" else self._rnd.choice(_ANY) if first == "." else first

    def _members(self) -> str:
        end = self._rest.index("]", 1)
        inside, self._rest = self._rest[:end], self._rest[end + 1 :]
        refused = inside.startswith("^")
        for name, members in _CLASSES.items():
            inside = inside.replace(f"\\{name}", members)
        ranges = re.sub(r"(\w)-(\w)", lambda m: "".join(map(chr, range(ord(m[1]), ord(m[2]) + 1))), inside.lstrip("^"))
        return "".join(each for each in _ANY if each not in ranges) if refused else ranges.replace("\\", "")

    def _times(self) -> tuple[int, int]:
        found = re.match(r"([*+?])\??|\{(\d+)(,?)(\d*)\}", self._rest)
        if found is None:
            return 1, 1
        self._rest = self._rest[found.end() :]
        if found[1]:
            return (int(found[1] == "+"), 1 if found[1] == "?" else _MOST)
        least = int(found[2])
        return least, int(found[4] or (least + _MOST if found[3] else least))
