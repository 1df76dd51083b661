"""Encrypted columns: data keys that are kept wrapped, and what they do to a column's text.

Ciphertexts are those of Confluent's client-side field encryption (Tink's raw AES256_GCM and AES256_SIV without
associated data, in base64), and so are data keys and the way a local key wraps them; only where a data key is kept
differs: in `instep.toml`, wrapped, instead of a service for keys. Nothing here ever logs a text or a key.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from instep.errors import ConfigError
from instep.settings import EncryptionSettings, SourceSettings
from instep_schemas.varint import counted
from instep_schemas.wire import CIPHER, PLAIN, Cipher, Tag, Unencodable

GCM: Final = "AES256_GCM"
SIV: Final = "AES256_SIV"
_NONCE: Final = 12
_SIZES: Final = {GCM: 32, SIV: 64}
_HEADS: Final = {GCM: b"\x1a\x20", SIV: b"\x12\x40"}
"""A data key is wrapped as Tink's message of one field: the key."""

_held: dict[str, EncryptionSettings] = {}


def hold(rules: Mapping[str, EncryptionSettings]) -> None:
    """Keep the rules of `[encryption]` for this process: by tag.

    Raises:
        ConfigError: a rule that encrypts has no key, or its key does not open with the one that wraps it.
    """
    for tag, rule in rules.items():
        if rule.algorithm != PLAIN:
            _key(tag, rule)
    _held.clear()
    _held.update(rules)


def new_key(kek: str, algorithm: str) -> str:
    """A new data key, wrapped by the key that `kek` (any text; use 32 random bytes in base64) stands for."""
    nonce = os.urandom(_NONCE)
    message = _HEADS[algorithm] + os.urandom(_SIZES[algorithm])
    return base64.b64encode(nonce + _wrapping(kek).encrypt(nonce, message, b"")).decode()


def _wrapping(kek: str) -> AESGCM:
    return AESGCM(HKDF(SHA256(), 16, None, b"").derive(kek.encode()))


def _key(tag: str, rule: EncryptionSettings) -> bytes:
    """The data key of a rule, unwrapped."""
    where, remedy = f"encryption.{tag}", f"Make one with: instep schema key {tag}."
    if not rule.kek or not rule.dek:
        raise ConfigError(f"{where} has no {'dek' if rule.kek else 'kek'}.", remedy)
    try:
        wrapped = base64.b64decode(rule.dek, validate=True)
        message = _wrapping(rule.kek.reveal()).decrypt(wrapped[:_NONCE], wrapped[_NONCE:], b"")
    except (binascii.Error, ValueError, InvalidTag):
        raise ConfigError(f"{where}: its dek does not open with its kek.", remedy) from None
    key = message.removeprefix(_HEADS[rule.algorithm])
    if len(key) != _SIZES[rule.algorithm]:
        raise ConfigError(f"{where}: its dek is not for {rule.algorithm}.", remedy)
    return key


def tags_of(source: SourceSettings, rules: Mapping[str, EncryptionSettings]) -> tuple[tuple[str, tuple[Tag, ...]], ...]:
    """The tagged columns of a source, as `WireOptions.tags` has them; a tag without a rule has no algorithm."""
    return tuple(
        (_expression(column), tuple(Tag(tag, rules[tag].algorithm if tag in rules else "") for tag in tags))
        for column, tags in source.tags.items()
    )


def _expression(wildcard: str) -> str:
    return "[^.]*".join(map(re.escape, wildcard.split("*")))


def lost(old_text: str, new_text: str) -> list[str]:
    """Columns that the old envelope schema encrypts, and the new one would write in clear without saying so."""
    old, new = _encrypted(old_text), {field["name"]: field for field in _columns(new_text)}
    return [
        name
        for name, tag in old.items()
        if name in new and CIPHER not in new[name] and tag not in new[name].get("confluent:tags", ())
    ]


def _encrypted(text: str) -> dict[str, str]:
    return {field["name"]: field[CIPHER]["tag"] for field in _columns(text) if CIPHER in field}


def _columns(text: str) -> list[dict[str, Any]]:
    """The fields of an envelope's row."""
    for field in json.loads(text)["fields"]:
        if field["name"] == "before":
            fields: list[dict[str, Any]] = next(each for each in field["type"] if each != "null")["fields"]
            return fields
    return []


def _rule(cipher: Cipher, column: str) -> bytes:
    rule = _held.get(cipher.tag)
    if rule is None or rule.algorithm != cipher.algorithm:
        raise ConfigError(
            f"The column {column!r} is encrypted with {cipher.algorithm} under the tag {cipher.tag}, and "
            f"encryption.{cipher.tag} {'is missing' if rule is None else f'says {rule.algorithm}'}.",
            f"Set encryption.{cipher.tag} to the rule that capture writes with.",
        )
    return _key(cipher.tag, rule)


def sealing(cipher: Cipher, column: str) -> Callable[[bytes], bytes]:
    """A codec: a column's text to the Avro string of its ciphertext.

    Raises:
        ConfigError: this process does not hold the key.
    """
    key = _rule(cipher, column)
    if cipher.algorithm == SIV:
        siv = AESSIV(key)
        return lambda text: counted(base64.b64encode(siv.encrypt(text, [b""])))
    gcm, random = AESGCM(key), os.urandom

    def seal(text: bytes) -> bytes:
        nonce = random(_NONCE)
        return counted(base64.b64encode(nonce + gcm.encrypt(nonce, text, b"")))

    return seal


def opening(cipher: Cipher, column: str) -> Callable[[str], str]:
    """The way back: a ciphertext in base64 to the column's text.

    Raises:
        ConfigError: this process does not hold the key. The function itself raises `Unencodable` for what it
            cannot open.
    """
    key = _rule(cipher, column)
    siv, gcm = (AESSIV(key), None) if cipher.algorithm == SIV else (None, AESGCM(key))

    def unseal(text: str) -> str:
        try:
            data = base64.b64decode(text, validate=True)
            plain = siv.decrypt(data, [b""]) if siv else gcm.decrypt(data[:_NONCE], data[_NONCE:], b"")  # type: ignore[union-attr]  # one of both
        except (binascii.Error, ValueError, InvalidTag):
            raise Unencodable(column, f"it does not open with the key of encryption.{cipher.tag}") from None
        return plain.decode()

    return unseal
