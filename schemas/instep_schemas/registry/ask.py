"""One request as the routes see it, apart from HTTP (pure)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from instep_schemas.registry import refusals
from instep_schemas.registry.requests import version_number
from instep_schemas.registry.subjects import DEFAULT_CONTEXT, EVERY_CONTEXT, canonical, context_name, context_of, join

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Ask:
    """One request.

    Attributes:
        path: the variable parts of the path, decoded.
        query: parameters; one that is repeated keeps all its values.
        raw: the body as sent.
    """

    path: Mapping[str, str]
    query: Mapping[str, Sequence[str]]
    raw: bytes = b""

    @property
    def context(self) -> str:
        """The context in the path, else the default one."""
        return context_name(self.path["context"]) if "context" in self.path else DEFAULT_CONTEXT

    @property
    def subject(self) -> str:
        """The subject in the path, qualified."""
        return canonical(self.path["subject"], self.context)

    @property
    def scope(self) -> str | None:
        """Subject or context that a setting is for; None: everywhere."""
        if "subject" in self.path:
            return self.subject
        return join(self.context, "") or None

    def aliased(self, config: Callable[[str], Mapping[str, Any] | None]) -> Ask:
        """The same request for the subject that the named one is an alias of.

        Args:
            config: the configuration of exactly one subject.
        """
        if "subject" in self.path:
            return replace(self, path={**self.path, "subject": self._real(self.subject, config)})
        if (named := self.text("subject")) and "id" in self.path:
            return replace(self, query={**self.query, "subject": [self._real(canonical(named, self.context), config)]})
        return self

    @staticmethod
    def _real(subject: str, config: Callable[[str], Mapping[str, Any] | None]) -> str:
        alias = (config(subject) or {}).get("alias")
        return canonical(str(alias), context_of(subject)) if alias else subject

    @property
    def version(self) -> int:
        """The version in the path; -1: the newest.

        Raises:
            Refusal: 42202.
        """
        return version_number(self.path["version"])

    @property
    def body(self) -> Any:
        """The body.

        Raises:
            Refusal: 400, it is no JSON.
        """
        try:
            return json.loads(self.raw)
        except (ValueError, RecursionError):
            raise refusals.bad_request("The body is not JSON.") from None

    @property
    def prefix(self) -> str:
        """The subjects that are asked for, by their beginning."""
        given = self.text("subjectPrefix")
        if self.context != DEFAULT_CONTEXT:
            return join(self.context, given or "")
        return EVERY_CONTEXT if given is None else given

    def text(self, name: str) -> str | None:
        """A parameter, None when it is not given."""
        values = self.query.get(name)
        return values[-1] if values else None

    def texts(self, name: str) -> Sequence[str]:
        """All values of a parameter."""
        return self.query.get(name, ())

    def flag(self, name: str) -> bool:
        """A parameter that is true or not."""
        return (self.text(name) or "").lower() == "true"

    def number(self, name: str, default: int) -> int:
        """A parameter that is a number.

        Raises:
            Refusal: 400, it is none.
        """
        text = self.text(name)
        try:
            return default if text is None else int(text)
        except ValueError:
            raise refusals.bad_request(f"{name} must be a number.") from None

    def page(self, items: Sequence[Item]) -> list[Item]:
        """The part of a list that `offset` and `limit` ask for.

        Raises:
            Refusal: 400.
        """
        start, limit = max(self.number("offset", 0), 0), self.number("limit", -1)
        return list(items[start : start + limit] if limit >= 0 else items[start:])
