"""Accounts and TLS as they stand in the settings."""

from __future__ import annotations

import ssl
from base64 import b64encode
from pathlib import Path

from instep.errors import ConfigError
from instep.settings import RegistrySettings
from instep_schemas.registry.access import EVERYTHING, Account, Accounts, Role
from instep_schemas.registry.tokens import Tokens


def anchored(settings: RegistrySettings, root: Path) -> RegistrySettings:
    """The same with relative paths made from the project's folder."""
    paths = {name: getattr(settings, name) for name in ("certificate", "certificate_key", "client_ca", "audit")}
    made: dict[str, object] = {name: root / path for name, path in paths.items() if path is not None}
    if settings.jwks and "://" not in settings.jwks:
        made["jwks"] = str(root / settings.jwks)
    return settings.model_copy(update=made)


def accounts_of(settings: RegistrySettings, tokens: Tokens | None = None) -> Accounts:
    """Every account: `registry.user` may do everything, the others what their roles say.

    Raises:
        ConfigError: there are accounts, but not `registry.user`; or a secret is missing.
    """
    if settings.accounts and not settings.user:
        raise ConfigError(
            "registry.accounts needs registry.user, the account of Instep's own processes.",
            "Set registry.user and registry.password.",
        )
    if not settings.user:
        return Accounts()
    own = Account(settings.user, {EVERYTHING: Role.ADMIN}, own=True)
    passwords = {
        name: (Account(name, {_prefix(p): Role[r.upper()] for p, r in each.roles.items()}), each.password.reveal())
        for name, each in settings.accounts.items()
    }
    every = {**passwords, settings.user: (own, settings.password.reveal())}
    return Accounts(every, None if tokens is None else tokens.subject)


def _prefix(text: str) -> str:
    return EVERYTHING if text in ("", "*") else text.removesuffix("*")


def own_header(settings: RegistrySettings) -> str:
    """The Authorization header with which one instance calls another; empty: none is needed."""
    if not settings.user:
        return ""
    return "Basic " + b64encode(f"{settings.user}:{settings.password.reveal()}".encode()).decode()


def tls(settings: RegistrySettings) -> tuple[ssl.SSLContext | None, ssl.SSLContext | bool]:
    """The contexts for listening (None: without TLS) and for calling other instances.

    Raises:
        ConfigError: a file is missing or is not what it should be.
    """
    if settings.certificate is None:
        if settings.client_ca or settings.certificate_key:
            raise ConfigError("registry.certificate is missing.", "Set it, or remove client_ca and certificate_key.")
        return None, True
    try:
        serving, calling = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
        for context in (serving, calling):
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.load_cert_chain(settings.certificate, settings.certificate_key)
        calling.load_verify_locations(settings.certificate)
        if settings.client_ca is not None:
            serving.load_verify_locations(settings.client_ca)
            serving.verify_mode = ssl.CERT_OPTIONAL  # others show a password
            calling.load_verify_locations(settings.client_ca)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(f"registry.certificate, certificate_key or client_ca cannot be used: {exc}.") from exc
    return serving, calling
