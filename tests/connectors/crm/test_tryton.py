"""The Tryton sink on a real Tryton, beyond what every sink must do (tests/conformance)."""

from __future__ import annotations

import base64
import uuid
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import httpx
import pytest
from tests.connectors.crm.contract import contract

from instep.change import Position
from instep.errors import ConfigError, InstepError, TargetError
from instep.flowfile import Flow
from instep.protocols import Delete, Document, Fields, Outcome, Rejected, Retry, Unchanged, Written
from instep.settings import Secret, TargetSettings
from instep_connectors.crm.tryton import TrytonSink

PRODUCT = Flow(
    name="card",
    sql="SELECT 1",
    key=("sku",),
    object="product.product",
    fields=("sku", "name", "list_price", "description"),
)
PARTY = Flow(
    name="customer",
    sql="SELECT 1",
    key=("code",),
    object="party.party",
    fields=("name", "email", "other", "other_spent"),
)


def key() -> str:
    return uuid.uuid4().hex[:10]


def product(sku: str, **more: Any) -> Document:
    fields = {"sku": sku, "name": "Kettle", "list_price": Decimal("24.9"), "description": "a\nb", **more}
    return Document("card", (sku,), fields, 1, Position(1, 1))


def party(code: str, **more: Any) -> Document:
    fields = {"code": code, "name": "Ada", "email": "a@example.com", "other": "3 orders", "other_spent": "9.50", **more}
    return Document("customer", (code,), fields, 1, Position(1, 1))


def gone(of: Document) -> Document:
    return Document(of.flow, of.key, None, 2, Position(1, 2))


class Tryton:
    """Tryton's own API, to do what a person does and to see what they see."""

    def __init__(self, target: TargetSettings) -> None:
        self.http = httpx.Client(
            base_url=f"{target.url.rstrip('/')}/rest/model/",
            headers={
                "Authorization": f"bearer {target.key.reveal()}",
                "X-Tryton-Context": base64.urlsafe_b64encode(b'{"company": 1}').decode(),
            },
            timeout=30,
        )

    def search(self, model: str, domain: list[Any], *names: str) -> list[dict[str, Any]]:
        answer = self.http.post(f"{model}/search_read", json={"domain": domain, "fields_names": names})
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()
        return found

    def put(self, path: str, body: dict[str, Any]) -> None:
        answer = self.http.put(f"{path}?f=id", json=body)
        assert answer.status_code == 200, answer.text

    def create(self, model: str, body: dict[str, Any]) -> int:
        answer = self.http.post(f"{model}?f=id", json=body)
        assert answer.status_code == 200, answer.text
        return int(answer.json()["id"])


@pytest.fixture
def crm(tryton: TargetSettings) -> Any:
    own = Tryton(tryton)
    yield own
    own.http.close()


@pytest.fixture
async def products(tryton: TargetSettings) -> AsyncIterator[TrytonSink]:
    sink = TrytonSink.open(tryton, PRODUCT)
    yield sink
    await sink.aclose()


@pytest.fixture
async def parties(tryton: TargetSettings) -> AsyncIterator[TrytonSink]:
    sink = TrytonSink.open(tryton, PARTY)
    yield sink
    await sink.aclose()


async def one(sink: TrytonSink, document: Document) -> Outcome:
    (outcome,) = await sink.write([document])
    return outcome


async def held(sink: TrytonSink, document: Document) -> Fields | None:
    return (await sink.read([document.key])).get(document.key)


async def test_a_product_can_be_sold_and_says_where_it_is(products: TrytonSink, crm: Tryton) -> None:
    sku = key()
    outcome = await one(products, product(sku))
    names = ("template.id", "template.salable", "template.default_uom.rec_name", "template.account_category.rec_name")
    (found,) = crm.search("product.product", [["code", "=", sku]], *names)
    template = found["template."]
    assert outcome == Written(str(template["id"]), created=True)
    assert template["salable"] and template["default_uom."]["rec_name"] == "Unit"
    assert template["account_category."]["rec_name"] == "Goods"


async def test_only_what_differs_is_sent(products: TrytonSink, crm: Tryton) -> None:
    sku = key()
    await one(products, product(sku))
    (found,) = crm.search("product.product", [["code", "=", sku]], "template.id", "template.write_date")
    assert isinstance(await one(products, product(sku, description="new")), Written)
    (after,) = crm.search("product.product", [["code", "=", sku]], "template.write_date", "description")
    assert after["description"] == "new"
    assert after["template."]["write_date"] == found["template."]["write_date"]
    assert isinstance(await one(products, product(sku, description="new", list_price=Decimal("24.9000"))), Unchanged)


async def test_a_record_comes_back_with_new_values(products: TrytonSink, parties: TrytonSink) -> None:
    for sink, first, second in (
        (products, product(k := key()), product(k, name="Pot", list_price=Decimal(1))),
        (parties, party(c := key()), party(c, name="Eve", email=None)),
    ):
        await one(sink, first)
        await one(sink, gone(first))
        assert await held(sink, first) is None
        assert isinstance(await one(sink, second), Written)
        found = await held(sink, second)
        assert found is not None and second.fields is not None
        assert found["name"] == second.fields["name"]


async def test_what_a_person_deactivated_comes_back_unchanged_values_and_all(products: TrytonSink, crm: Tryton) -> None:
    sku = key()
    await one(products, product(sku))
    (found,) = crm.search("product.product", [["code", "=", sku]], "template.id")
    crm.put(f"product.template/{found['template.']['id']}", {"active": False})
    assert await held(products, product(sku)) is None
    assert isinstance(await one(products, product(sku)), Written)
    assert await held(products, product(sku)) is not None


async def test_the_price_a_person_gave_the_variant_is_seen_and_mended(products: TrytonSink, crm: Tryton) -> None:
    sku = key()
    await one(products, product(sku))
    (found,) = crm.search("product.product", [["code", "=", sku]], "id")
    crm.put(f"product.product/{found['id']}", {"list_price": {"__class__": "Decimal", "decimal": "99"}})
    assert (await held(products, product(sku)) or {})["list_price"] == 99
    assert isinstance(await one(products, product(sku)), Written)
    assert (await held(products, product(sku)) or {})["list_price"] == Decimal("24.9")


async def test_a_template_with_more_variants_stays_when_one_goes(products: TrytonSink, crm: Tryton) -> None:
    sku, other = key(), key()
    await one(products, product(sku))
    (found,) = crm.search("product.product", [["code", "=", sku]], "template.id")
    crm.create("product.product", {"template": found["template."]["id"], "suffix_code": other})
    await one(products, gone(product(sku)))
    assert await held(products, product(sku)) is None
    assert await held(products, product(other)) is not None


async def test_delete_rules(tryton: TargetSettings, crm: Tryton) -> None:
    for rule, left in ((Delete.DELETE, 0), (Delete.IGNORE, 1), (Delete.DEACTIVATE, 1)):
        for flow, make, model in ((PRODUCT, product, "product.product"), (PARTY, party, "party.party")):
            sink = TrytonSink.open(tryton, flow.model_copy(update={"delete": rule}))
            document = make(key())
            await one(sink, document)
            outcome = await one(sink, gone(document))
            domain = [["code", "=", document.key[0]], ["active", "in", [True, False]]]
            assert len(crm.search(model, domain, "id")) == left
            assert isinstance(outcome, Unchanged if rule is Delete.IGNORE else Written)
            await sink.aclose()


async def test_contact_mechanisms_come_change_and_go(parties: TrytonSink, crm: Tryton) -> None:
    code = key()
    await one(parties, party(code))
    (found,) = crm.search("party.party", [["code", "=", code]], "id", "email", "contact_mechanisms.type")
    assert found["email"] == "a@example.com" and len(found["contact_mechanisms."]) == 3
    crm.create("party.contact_mechanism", {"party": found["id"], "type": "phone", "value": "123"})
    await one(parties, party(code, email="b@example.com", other=None, other_spent="10"))
    names = ("contact_mechanisms.type", "contact_mechanisms.name", "contact_mechanisms.value")
    (found,) = crm.search("party.party", [["code", "=", code]], *names)
    mechanisms = {(each["type"], each["name"], each["value"]) for each in found["contact_mechanisms."]}
    assert mechanisms == {("email", None, "b@example.com"), ("other", "spent", "10"), ("phone", None, "123")}
    assert isinstance(await one(parties, party(code, email="b@example.com", other="", other_spent="10")), Unchanged)


async def test_one_refused_creation_does_not_hurt_the_others(products: TrytonSink) -> None:
    batch = [product(key()), product(key(), name=None), product(key(), list_price=Decimal("1.23456")), product(key())]
    outcomes = await products.write(batch)
    assert [type(outcome) for outcome in outcomes] == [Written, Rejected, Rejected, Written]
    assert isinstance(outcomes[1], Rejected) and 'field "Name"' in outcomes[1].message


async def test_a_name_finds_a_related_record_or_the_document_is_refused(tryton: TargetSettings) -> None:
    flow = PRODUCT.model_copy(update={"fields": ("name", "default_uom")})
    sink = TrytonSink.open(tryton, flow)
    good, bad = product(key(), default_uom="Kilogram"), product(key(), default_uom="Bushel")
    outcomes = await sink.write([good, bad])
    assert isinstance(outcomes[0], Written) and isinstance(outcomes[1], Rejected)
    assert outcomes[1].code == "TYPE" and outcomes[1].field == "default_uom"
    assert (await held(sink, good) or {})["default_uom"] == "Kilogram"
    await sink.aclose()


async def test_without_listed_fields_the_documents_columns_are_delivered(tryton: TargetSettings) -> None:
    sink = TrytonSink.open(tryton, PRODUCT.model_copy(update={"fields": None}))
    document = product(key())
    await one(sink, document)
    assert set(await held(sink, document) or {}) == {"name", "list_price", "description"}
    await sink.aclose()


async def test_a_column_that_a_document_lacks_is_not_taken_for_null(tryton: TargetSettings) -> None:
    """A flow that has got a column meanwhile: older documents do not have it."""
    sink = TrytonSink.open(tryton, PRODUCT.model_copy(update={"fields": None}))
    full = product(key())
    assert full.fields is not None
    less = Document("card", full.key, {n: v for n, v in full.fields.items() if n != "description"}, 1, full.position)
    await sink.write([full])
    assert [type(each) for each in await sink.write([less, product(key())])] == [Unchanged, Written]
    assert (await held(sink, full) or {})["description"] == "a\nb"
    await sink.aclose()
    sink = TrytonSink.open(tryton, PRODUCT)
    outcome = await one(sink, less)
    assert isinstance(outcome, Rejected) and outcome.field == "description"
    await sink.aclose()


async def test_more_keys_than_one_search_takes(products: TrytonSink) -> None:
    document = product(key())
    await one(products, document)
    found = await products.read([(key(),) for _ in range(450)] + [document.key])
    assert list(found) == [document.key]


@pytest.mark.parametrize(
    ("change", "flow", "words"),
    [
        ({}, {"object": "sale.sale"}, "sale.sale"),
        ({}, {"key": ("a", "b")}, "2 columns"),
        ({"url": "localhost"}, {}, "no address"),
        ({"databse": "crm"}, {}, "databse"),
    ],
)
def test_wrong_settings_are_named(
    tryton: TargetSettings, change: dict[str, Any], flow: dict[str, Any], words: str
) -> None:
    target = TargetSettings(**{**tryton.model_dump(), **change})
    with pytest.raises(ConfigError, match=words):
        TrytonSink.open(target, PRODUCT.model_copy(update=flow))


@pytest.mark.parametrize(
    ("change", "fields", "error", "words"),
    [
        ({"key": Secret("wrong")}, ("name",), TargetError, "refuses the key"),
        ({"default_uom": "Bushel"}, ("name",), ConfigError, "default_uom"),
        ({"account_category": 12345}, ("name",), ConfigError, "account_category"),
        ({"company": "Nobody"}, ("name",), ConfigError, "company"),
        ({}, ("nmae",), ConfigError, "nmae"),
        ({}, ("quantity",), ConfigError, "quantity"),
        ({}, ("products",), ConfigError, "products"),
    ],
)
async def test_what_tryton_does_not_have_is_named_at_first_contact(
    tryton: TargetSettings, change: dict[str, Any], fields: tuple[str, ...], error: type[InstepError], words: str
) -> None:
    target = TargetSettings(**{**tryton.model_dump(), **change})
    sink = TrytonSink.open(target, PRODUCT.model_copy(update={"fields": fields}))
    document = product(key(), **dict.fromkeys(fields, "x"))
    with pytest.raises(error, match=words):
        await sink.write([document])
    with pytest.raises(error, match=words):
        await sink.read([document.key])
    await sink.aclose()


async def test_settings_may_name_what_new_products_get(tryton: TargetSettings, crm: Tryton) -> None:
    options = {"default_uom": "Kilogram", "account_category": "Goods", "company": 1, "timeout": 5}
    sink = TrytonSink.open(TargetSettings(**{**tryton.model_dump(), **options}), PRODUCT)
    document = product(key())
    await one(sink, document)
    (found,) = crm.search("product.product", [["code", "=", document.key[0]]], "template.default_uom.rec_name")
    assert found["template."]["default_uom."]["rec_name"] == "Kilogram"
    await sink.aclose()


async def test_the_only_database_is_found(tryton: TargetSettings) -> None:
    root, _, name = tryton.url.rstrip("/").rpartition("/")
    sink = TrytonSink.open(tryton.model_copy(update={"url": root}), PRODUCT)
    try:
        assert await sink.read([(key(),)]) == {}
    except ConfigError as exc:  # this server has other databases too
        assert "database" in str(exc)
    await sink.aclose()
    sink = TrytonSink.open(TargetSettings(**{**tryton.model_dump(), "url": root, "database": name}), PRODUCT)
    assert await sink.read([(key(),)]) == {}
    await sink.aclose()


async def test_while_tryton_is_away_nothing_is_judged(tryton: TargetSettings) -> None:
    async with contract() as state:
        url = state.url
    sink = TrytonSink.open(tryton.model_copy(update={"url": f"{url}/crm"}), PRODUCT)
    outcomes = await sink.write([product(key()), product(key())])
    assert all(isinstance(outcome, Retry) for outcome in outcomes)
    with pytest.raises(ConnectionError, match="cannot be reached"):
        await sink.read([(key(),)])
    await sink.aclose()
