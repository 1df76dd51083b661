"""Encrypted columns: keys, ciphertexts, schemas, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.schemas.samples import base, relation_of

from instep.change import ABSENT, Op
from instep.errors import ConfigError
from instep.relation import Column, Relation
from instep.settings import EncryptionSettings, SourceSettings
from instep_schemas.ciphers import hold, lost, new_key, opening, sealing, tags_of
from instep_schemas.decode import compile_decoder
from instep_schemas.derive import derive
from instep_schemas.encode import compile_encoder
from instep_schemas.envelope import SourceBlock, time_stamp
from instep_schemas.wire import Cipher, Profile, Unencodable, Unsupported, WireOptions

# made by confluent-kafka 2.16.1 (Tink 1.16), local KMS: wrapped data keys, and the ciphertext of "Ada Løvelace"
KEK = "kekkekkek"
CONFLUENT = {
    "AES256_GCM": (
        "5Mk/AzNvS6WAOFYI++oe8QTRyn/vCxUNyMDGpS/7vt/Qu3805TAtdpmpQzsAAfimBmXa0WiECmXi5/rMv3A=",
        "NH2k7a1h/F6vg/JpH6K3/VnDM3HCzyj9dCbzwr/hnZ2y5IDz6uRUMro=",
    ),
    "AES256_SIV": (
        "aWvS9cmSaRR9SlgaVqeu6pjdUefaSmQ/cxi5iKTl8B8OqzLIHGfVxn8m6oNuB7/eDJM/GZQmgeJm/X4CAglvUnMN1HvnVO7mxr7h1Z2csg5E"
        "vZ15nrkqDs1SuHu8+Q==",
        "5LWB07df2cOdb0oXZEr2ZRLq9NWVxfSOHI4OEQs=",
    ),
}
RULES = {
    name: EncryptionSettings.model_validate({"algorithm": name, "kek": KEK, "dek": dek})
    for name, (dek, _) in CONFLUENT.items()
} | {"OPEN": EncryptionSettings.model_validate({"algorithm": "plain"})}
TEXTS = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))


@pytest.fixture(autouse=True)
def held() -> Iterator[None]:
    hold(RULES)
    yield
    hold({})


def sealed(algorithm: str, text: str) -> str:
    """The ciphertext without its Avro length."""
    data = sealing(Cipher(algorithm, algorithm), "c")(text.encode())
    return data[1 if data[0] < 128 else 2 :].decode()


@pytest.mark.parametrize("algorithm", CONFLUENT)
def test_confluents_keys_and_ciphertexts(algorithm: str) -> None:
    assert opening(Cipher(algorithm, algorithm), "c")(CONFLUENT[algorithm][1]) == "Ada Løvelace"
    same = sealed(algorithm, "Ada Løvelace") == CONFLUENT[algorithm][1]
    assert same == (algorithm == "AES256_SIV")


def options(profile: Profile = "native", **tags: tuple[str, ...]) -> WireOptions:
    source = SourceSettings.model_validate({"dsn": "", "tags": {f"public.things.{k}": v for k, v in tags.items()}})
    return WireOptions("shop", "inventory", profile, tags=tags_of(source, RULES))


def things(*columns: Column) -> Relation:
    return relation_of(list(columns))


NAME = Column("name", base("text"), sql_type="text")
PRICE = Column("price", base("int4"), not_null=True, sql_type="integer", default="7")
SOURCE = SourceBlock(WireOptions("shop", "inventory"), committed_us=1, transaction=2)


@pytest.mark.parametrize("profile", ["native", "debezium"])
@given(name=st.none() | TEXTS.map("not to be seen: {}".format), price=st.integers(-(2**31), 2**31 - 1))
def test_a_row_is_read_back_and_shows_nothing(profile: Profile, name: str | None, price: int) -> None:
    wire = options(profile, name=("AES256_GCM",), price=("AES256_SIV",))
    encoder = compile_encoder(things(NAME, PRICE), wire)
    row = [b"1", None if name is None else name.encode(), str(price).encode()]
    data = encoder.envelope(Op.CREATE, None, row, SOURCE, 5, time_stamp(0))
    assert b"not to be seen" not in data
    decoded = compile_decoder(encoder.schemas.value_text)(data)
    assert decoded.after == {"id": "1", "name": name, "price": str(price)}
    other = compile_decoder(encoder.schemas.value_text, columns={"id"})
    hold({})  # what is not read needs no key
    assert other(data).after == {"id": "1"}
    hold(RULES)


def test_an_unchanged_value_stays_absent() -> None:
    encoder = compile_encoder(things(NAME), options(name=("AES256_GCM",)))
    data = encoder.envelope(Op.UPDATE, [b"1", None], [b"1", ABSENT], SOURCE, 5, time_stamp(0))
    assert (compile_decoder(encoder.schemas.value_text)(data).after or {})["name"] is ABSENT


def test_the_schema_tells_tags_and_cipher_and_no_default() -> None:
    wire = options(name=("OPEN",), price=("OPEN", "AES256_SIV"))
    row = derive(things(NAME, PRICE), wire).value["fields"][0]["type"][1]
    name, price = row["fields"][1:]
    assert (name["confluent:tags"], "instep.cipher" in name) == (["OPEN"], False)
    assert price["confluent:tags"] == ["OPEN", "AES256_SIV"]
    assert price["instep.cipher"] == {"tag": "AES256_SIV", "algorithm": "AES256_SIV"}
    assert (price["type"], "default" in price, price["pg.type"]) == ("string", False, "integer")


def test_a_tag_without_a_rule_is_refused() -> None:
    with pytest.raises(Unsupported, match=r"there is no rule encryption\.PII"):
        derive(things(NAME), options(name=("PII",)))


@pytest.mark.parametrize("profile", ["native", "debezium"])
def test_a_key_is_never_encrypted(profile: Profile) -> None:
    with pytest.raises(Unsupported, match="part of its key"):
        derive(things(NAME), options(profile, id=("AES256_SIV",)))


def test_wildcards_name_columns() -> None:
    source = SourceSettings.model_validate({"dsn": "", "tags": {"*.*.email": ("OPEN",)}})
    ((expression, tags),) = tags_of(source, RULES)
    assert (expression, [tag.algorithm for tag in tags]) == (r"[^.]*\.[^.]*\.email", ["plain"])


def test_what_was_encrypted_and_is_not_any_more() -> None:
    def text(**tags: Any) -> str:
        return derive(things(NAME, PRICE), options(**tags)).value_text

    before = text(name=("AES256_GCM",))
    assert lost(before, text()) == ["name"]
    assert lost(before, text(name=("OPEN",))) == ["name"]
    assert lost(before, text(name=("AES256_SIV",))) == []
    assert lost(before, derive(things(PRICE), options()).value_text) == []
    assert lost(text(), before) == []
    said = json.loads(before)
    del said["fields"][0]["type"][1]["fields"][1]["instep.cipher"]
    assert lost(before, json.dumps(said)) == []


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ({"kek": KEK}, "has no dek"),
        ({"dek": "AAAA"}, "has no kek"),
        ({"kek": KEK, "dek": "AAAA"}, "does not open"),
        ({"kek": KEK, "dek": "not base64"}, "does not open"),
        ({"kek": "another", "dek": CONFLUENT["AES256_GCM"][0]}, "does not open"),
        ({"kek": KEK, "dek": CONFLUENT["AES256_SIV"][0]}, "is not for AES256_GCM"),
    ],
)
def test_rules_without_a_good_key(rule: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        hold({"PII": EncryptionSettings.model_validate(rule)})


def test_new_keys_fit() -> None:
    for algorithm in CONFLUENT:
        rule = {"algorithm": algorithm, "kek": KEK, "dek": new_key(KEK, algorithm)}
        hold({algorithm: EncryptionSettings.model_validate(rule)})
        assert opening(Cipher(algorithm, algorithm), "c")(sealed(algorithm, "x")) == "x"
        with pytest.raises(Unencodable, match="does not open"):
            opening(Cipher(algorithm, algorithm), "c")(CONFLUENT[algorithm][1])


def test_a_process_without_the_key_says_so() -> None:
    encoder = compile_encoder(things(NAME), options(name=("AES256_GCM",)))
    hold({})
    with pytest.raises(ConfigError, match=r"encryption\.AES256_GCM is missing"):
        compile_decoder(encoder.schemas.value_text)
