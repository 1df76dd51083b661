"""Who may do what: accounts with a role per subject prefix, and the store as one account sees it (pure)."""

from __future__ import annotations

import hmac
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

from instep_schemas.registry import refusals
from instep_schemas.registry.ask import Ask
from instep_schemas.registry.refusals import Refusal
from instep_schemas.registry.store import Store, Version
from instep_schemas.registry.subjects import DEFAULT_CONTEXT, EVERY_CONTEXT, canonical, context_of, matches, split


class Role(IntEnum):
    """What an account may do with a subject; each role includes those before it."""

    NONE = 0
    READ = 1
    WRITE = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class Account:
    """One account.

    Attributes:
        name: as it stands in the audit trail.
        roles: by the beginning of a subject (`:*:` for every context); the longest that fits holds.
        own: the registry's own account, which may speak for others.
    """

    name: str
    roles: Mapping[str, Role]
    own: bool = False

    @property
    def unlimited(self) -> bool:
        """Whether everything is allowed."""
        return self.everywhere is Role.ADMIN and min(self.roles.values()) is Role.ADMIN

    @property
    def everywhere(self) -> Role:
        """The role for what concerns all subjects."""
        return self.roles.get(EVERYTHING, Role.NONE)

    def role(self, subject: str) -> Role:
        """The role for a qualified subject."""
        fitting = [prefix for prefix in self.roles if matches(subject, prefix)]
        return self.roles[max(fitting, key=_closeness)] if fitting else Role.NONE

    def reads(self, subject: str) -> bool:
        """Whether the account may know of a subject."""
        return self.role(subject) >= Role.READ


def _closeness(prefix: str) -> tuple[int, bool]:
    """Longer names hold before shorter ones, and a context before every context."""
    if prefix.startswith(EVERY_CONTEXT):
        return len(prefix) - len(EVERY_CONTEXT), False
    return len(split(prefix)[1]), True


EVERYTHING: Final = EVERY_CONTEXT
EVERYBODY: Final = Account("", {EVERYTHING: Role.ADMIN})
"""Whoever calls a registry that has no accounts."""


@dataclass(frozen=True, slots=True)
class Accounts:
    """Every account.

    Attributes:
        passwords: account and password by user name; no password: by certificate or token only.
        tokens: gives the account's name of a valid bearer token; None: tokens are not taken.
    """

    passwords: Mapping[str, tuple[Account, str]] = field(default_factory=dict)
    tokens: Callable[[str], str | None] | None = None

    def caller(self, header: str, certificate: str = "") -> Account:
        """The account of a request.

        Args:
            header: Authorization, as sent.
            certificate: common name of the client's verified certificate, empty for none.

        Raises:
            Refusal: 401, it is none of ours.
        """
        if not self.passwords:
            return EVERYBODY
        kind, _, text = header.partition(" ")
        if kind.lower() == "bearer" and self.tokens is not None:
            name = self.tokens(text.strip())
            account, _ = self.passwords.get(name or "", (None, ""))
            if account is not None and not account.own:
                return account
            raise Refusal(401, 401, "The bearer token is not valid here.")
        if header:
            user, password = _basic(header)
            account, expected = self.passwords.get(user, (None, ""))
            if account is not None and expected and hmac.compare_digest(password.encode(), expected.encode()):
                return account
        elif certificate in self.passwords:
            return self.passwords[certificate][0]
        raise Refusal(401, 401, "User name and password are needed.")


def _basic(header: str) -> tuple[str, str]:
    kind, _, text = header.partition(" ")
    try:
        user, _, password = b64decode(text, validate=True).decode().partition(":")
    except ValueError:
        return "", ""
    return (user, password) if kind.lower() == "basic" else ("", "")


class View(Store):
    """A store as one account sees it: subjects that it may not read are not there."""

    def __init__(self, store: Store, account: Account) -> None:
        self.__dict__.update(store.__dict__)  # the same state, not a copy of it
        self._account = account

    def subjects(self, prefix: str = "", *, deleted: bool = False, deleted_only: bool = False) -> list[str]:
        """As the store's, without the hidden ones."""
        found = super().subjects(prefix, deleted=deleted, deleted_only=deleted_only)
        return [subject for subject in found if self._account.reads(subject)]

    def versions(self, subject: str, *, deleted: bool = False, deleted_only: bool = False) -> list[Version]:
        """As the store's; none of a hidden subject."""
        if not self._account.reads(subject):
            return []
        return super().versions(subject, deleted=deleted, deleted_only=deleted_only)

    def every_version(self) -> Iterator[Version]:
        """As the store's, without the hidden ones."""
        return (version for version in super().every_version() if self._account.reads(version.subject))

    def referrers(self, subject: str, version: int, *, deleted: bool = False) -> list[Version]:
        """As the store's, without the hidden ones."""
        found = super().referrers(subject, version, deleted=deleted)
        return [referrer for referrer in found if self._account.reads(referrer.subject)]

    def holders(self, context: str, schema_id: int) -> list[Version]:
        """As the store's, without the hidden ones."""
        return [holder for holder in super().holders(context, schema_id) if self._account.reads(holder.subject)]

    def holders_by_guid(self, guid: str) -> list[Version]:
        """As the store's, without the hidden ones."""
        contexts = sorted(context for context, ids in self._ids.items() if guid in ids)
        found = (self.holders(context, self._ids[context][guid]) for context in contexts)
        return [holders[0] for holders in found if holders]

    def contexts(self) -> list[str]:
        """Those that hold something to see, and the default one."""
        return sorted({context_of(version.subject) for version in self.every_version()} | {DEFAULT_CONTEXT})


def check(account: Account, ask: Ask, least: Role) -> None:
    """Let a request pass, or not.

    Raises:
        Refusal: 40401 for a subject that the account may not read, 42201 for a reference to one, 40301 for the rest.
    """
    if account.unlimited:
        return
    subject = ask.scope
    role = account.everywhere if subject is None else account.role(subject)
    if subject is not None and role < Role.READ:
        raise refusals.subject_not_found(subject)
    if role < least:
        raise refusals.denied(account.name, least.name.lower(), subject)
    for reference in _references(ask):
        if not account.reads(canonical(reference, ask.context if subject is None else context_of(subject))):
            raise refusals.invalid_schema(f"the reference is to {reference}, which has no version")


def _references(ask: Ask) -> list[str]:
    body: Any = ask.body if ask.raw else None
    raw = body.get("references") if isinstance(body, dict) else None
    return [str(each.get("subject")) for each in raw if isinstance(each, dict)] if isinstance(raw, list) else []
