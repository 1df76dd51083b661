"""What the compiler accepts and refuses; pure."""

from __future__ import annotations

import pytest

from instep.errors import FlowError
from instep.flowfile import Flow
from instep_streams.flows.catalog import Column, Table, catalog_of
from instep_streams.flows.compile import Plan, compile_flow
from instep_streams.flows.refusals import REFUSALS


def table(name: str, columns: str, *key: str, schema: str = "public") -> Table:
    """`id integer!, name text`: `!` is NOT NULL."""
    made = [each.strip().split(" ", 1) for each in columns.split(",")]
    return Table(schema, name, tuple(Column(n, t.rstrip("!"), t.endswith("!")) for n, t in made), key)


CATALOG = catalog_of(
    [
        table("products", "id bigint!, sku text!, name text, price numeric, supplier_id integer, parent_id bigint, "
              "category text, active boolean!, attrs jsonb, made timestamp with time zone", "id"),
        table("suppliers", "id integer!, name text, country text, vip boolean!", "id"),
        table("stock", "product_id bigint!, site text!, on_hand integer, weight real", "product_id", "site"),
        table("orders", "id integer!, product_id bigint, qty integer, state text, amount numeric", "id"),
        table("tags", "id integer!, name text!", "id"),
        table("log", "line text"),
        Table("public", "parents", (Column("id", "integer", True),), ("id",), inherited=True),
        Table("public", "moods", (Column("id", "integer", True), Column("mood", "feeling", labels=("ok", "sad"),
              base="public.mood")), ("id",)),
        Table("public", "places", (Column("id", "integer", True), Column("at", "text", foreign="geometry")), ("id",)),
        table("tenants", "id integer!, name text", "id", schema="crm"),
        table("accounts", "tenant_id integer!, id integer!, name text", "tenant_id", "id", schema="crm"),
        table("notes", "id integer!, tenant_id integer, account_id integer, body text", "id", schema="crm"),
    ]
)  # fmt: skip


def compiled(sql: str, *key: str) -> Plan:
    return compile_flow(Flow(name="f", sql=sql, key=key or ("id",)), CATALOG)


REFUSED = [
    ("VOLATILE", "SELECT id, made > now() - interval '7 days' AS fresh FROM products"),
    ("VOLATILE", "SELECT id, current_date AS d FROM products"),
    ("VOLATILE", "SELECT id, 'today'::date AS d FROM products"),
    ("VOLATILE", "SELECT id FROM products WHERE made > 'yesterday'"),
    ("VOLATILE", "SELECT id, timestamp 'now' AS t FROM products"),
    ("VOLATILE", "SELECT id, current_user AS u FROM products"),
    ("UNLINKED", "SELECT p.id, count(*) AS n FROM products p JOIN stock s ON s.on_hand < p.price GROUP BY p.id"),
    ("UNLINKED", "SELECT p.id, s.name FROM products p CROSS JOIN suppliers s"),
    ("UNLINKED", "SELECT p.id FROM products p WHERE p.id IN"
                 " (SELECT s.product_id FROM stock s ORDER BY s.on_hand LIMIT 3)"),
    ("UNLINKED", "SELECT p.id FROM products p WHERE p.id NOT IN (SELECT s.product_id FROM stock s OFFSET 1)"),
    ("UNLINKED", "SELECT p.id FROM products p WHERE p.id IN"
                 " (SELECT DISTINCT ON (s.site) s.product_id FROM stock s ORDER BY s.site, s.on_hand)"),
    *(("UNLINKED", f"SELECT p.id, (SELECT count(*) FROM orders o WHERE {each}) AS n FROM products p") for each in (
        "NOT EXISTS (SELECT FROM crm.notes n WHERE n.account_id = o.id AND n.tenant_id = p.id)",
        "o.qty = 1 OR EXISTS (SELECT FROM crm.notes n WHERE n.account_id = o.id AND n.tenant_id = p.id)",
        "EXISTS (SELECT count(*) FROM crm.notes n WHERE n.account_id = o.id AND n.tenant_id = p.id)",
        "EXISTS (SELECT FROM stock s LEFT JOIN crm.notes n ON n.account_id = o.id WHERE s.product_id = p.id)",
        "o.id NOT IN (SELECT n.id FROM crm.notes n WHERE n.tenant_id = p.id)",
        "o.id IN (SELECT n.account_id FROM crm.notes n WHERE n.tenant_id = p.id UNION SELECT 3)",
        "o.id < (SELECT max(n.id) FROM crm.notes n WHERE n.tenant_id = p.id)",
        "o.id = (SELECT max(n.id) + 1 FROM crm.notes n WHERE n.tenant_id = p.id)",
    )),
    ("UNLINKED", "SELECT p.id, count(o.id) AS n FROM products p LEFT JOIN orders o ON o.id IN"
                 " (SELECT n.account_id FROM crm.notes n WHERE n.tenant_id = p.id) GROUP BY p.id"),
    ("NOT_IN", "SELECT p.id FROM products p JOIN (SELECT product_id AS x, id AS y FROM orders UNION ALL"
               " SELECT product_id, NULL FROM stock) u ON u.x = p.id WHERE u.y NOT IN (SELECT id FROM tags)"),
    ("SHAPE", "SELECT p.id, v.n FROM products p CROSS JOIN LATERAL (VALUES ((SELECT count(*) FROM orders o"
              " WHERE o.product_id = p.id))) AS v(n)"),
    ("WHOLE_ROW", "SELECT p.id, to_jsonb(p.*) AS j FROM products p"),
    ("WHOLE_ROW", "SELECT p.id, count(d.*) AS n FROM products p LEFT JOIN (SELECT * FROM stock) d"
                  " ON d.product_id = p.id GROUP BY p.id"),
    ("KEY", "SELECT price AS id, count(*) AS n FROM products GROUP BY price"),
    ("KEY", "SELECT mood AS id, count(*) AS n FROM moods GROUP BY mood"),
    ("KEY", "SELECT price + 1 AS id, count(*) AS n FROM products GROUP BY price + 1"),
    ("KEY", "SELECT name::numeric AS id, count(*) AS n FROM products GROUP BY 1"),
    ("KEY", "SELECT attrs->'a' AS id, count(*) AS n FROM products GROUP BY 1"),
    ("KEY", "SELECT CASE WHEN active THEN price END AS id, count(*) AS n FROM products GROUP BY 1"),
    ("KEY", "SELECT qty::numeric(8,2) AS id, id AS x FROM orders UNION ALL SELECT on_hand, 1 FROM stock"),
    ("KEY", "SELECT supplier_id / 10 AS id, count(*) AS n FROM products GROUP BY 1"),
    ("UNLINKED", "SELECT p.id FROM products p WHERE p.price > (SELECT avg(price) FROM products)"),
    ("UNLINKED", "SELECT p.id, x.on_hand FROM products p"
                 " JOIN (SELECT * FROM stock ORDER BY on_hand LIMIT 5) x ON x.product_id = p.id"),
    ("UNLINKED", "SELECT p.id, s.name FROM products p JOIN suppliers s ON s.id = p.supplier_id OR s.name = p.name"),
    ("UNLINKED", "SELECT p.id, t.name FROM products p JOIN tags t ON lower(t.name) = lower(p.name)"),
    ("UNLINKED", "SELECT p.id, s.name FROM products p JOIN suppliers s ON s.id IS NOT DISTINCT FROM p.supplier_id"),
    ("UNLINKED", "SELECT p.id, x.r FROM products p JOIN (SELECT product_id, rank() OVER (ORDER BY on_hand) AS r"
                 " FROM stock) x ON x.product_id = p.id"),
    ("UNLINKED", "SELECT p.id, x.n FROM products p, LATERAL unnest(ARRAY(SELECT t.name FROM tags t)) AS x(n)"),
    ("GLOBAL_AGG", "SELECT count(*) AS id FROM products"),
    ("GROUP_KEY", "SELECT price::text AS id, count(*) AS n FROM products GROUP BY price"),
    ("GROUP_KEY", "SELECT d.p::text AS id, count(*) AS n FROM (SELECT price AS p FROM products) d GROUP BY d.p"),
    ("GROUP_KEY", "SELECT max(p.id) AS id, p.category FROM products p GROUP BY p.category"),
    ("GROUPING", "SELECT category AS id, count(*) AS n FROM products GROUP BY ROLLUP(category)"),
    ("LIMIT", "SELECT id, name FROM products ORDER BY price DESC LIMIT 10"),
    ("LIMIT", "SELECT id, name FROM products FETCH FIRST 10 ROWS ONLY"),
    ("LIMIT", "(SELECT id FROM products) UNION ALL (SELECT id FROM orders) LIMIT 3"),
    ("WINDOW", "SELECT id, rank() OVER (ORDER BY price) AS r FROM products"),
    ("WINDOW", "SELECT id, rank() OVER w AS r FROM products WINDOW w AS (PARTITION BY category)"),
    ("DISTINCT_ON", "SELECT DISTINCT ON (category) id, category FROM products ORDER BY category, price"),
    ("OUTER", "SELECT p.id, s.name FROM products p FULL JOIN suppliers s ON s.id = p.supplier_id"),
    ("OUTER", "SELECT s.id, p.name FROM products p RIGHT JOIN suppliers s ON s.id = p.supplier_id"),
    ("NULLABLE_ROOT", "SELECT s.id, count(p.id) AS n FROM products p LEFT JOIN suppliers s ON s.id = p.supplier_id"
                      " GROUP BY s.id"),
    ("NESTED_JOIN", "SELECT p.id FROM (products p JOIN orders o ON o.product_id = p.id) JOIN stock s"
                    " ON s.product_id = p.id"),
    ("NOT_IN", "SELECT id FROM products WHERE id NOT IN (SELECT parent_id FROM products)"),
    ("NOT_IN", "SELECT id FROM products WHERE NOT (active OR supplier_id IN (SELECT p2.supplier_id FROM products p2))"),
    ("NOT_IN", "SELECT id, supplier_id IN (SELECT p2.supplier_id FROM products p2) AS x FROM products"),
    ("NOT_IN", "SELECT id, CASE active WHEN supplier_id IN (SELECT p2.supplier_id FROM products p2) THEN 1 END AS x"
               " FROM products"),
    ("NOT_IN", "SELECT p.id FROM products p CROSS JOIN LATERAL (SELECT max(o.id) AS last FROM orders o"
               " WHERE o.product_id = p.id) d WHERE d.last NOT IN (SELECT t.id FROM tags t)"),
    ("NOT_IN", "SELECT p.id FROM products p LEFT JOIN suppliers s ON s.id = p.supplier_id"
               " WHERE s.id NOT IN (SELECT t.id FROM tags t)"),
    ("ANY_ALL", "SELECT id FROM products p WHERE price > ALL (SELECT amount FROM orders)"),
    ("ANY_ALL", "SELECT id FROM products p WHERE id < ANY (SELECT product_id FROM orders)"),
    ("ANY_ALL", "SELECT id FROM products p WHERE id = ANY (ARRAY(SELECT product_id FROM orders))"),
    ("NOT_IN", "SELECT id FROM products p WHERE id <> ALL (SELECT product_id FROM orders)"),
    ("RECURSIVE", "WITH RECURSIVE t AS (SELECT id, parent_id FROM products UNION ALL SELECT p.id, t.parent_id"
                  " FROM products p JOIN t ON p.parent_id = t.id) SELECT id, count(*) AS n FROM t GROUP BY id"),
    ("SETOP", "SELECT id FROM products EXCEPT SELECT product_id FROM stock"),
    ("NATURAL", "SELECT p.id FROM products p NATURAL JOIN tags t"),
    ("KEY", "SELECT name FROM products"),
    ("KEY_EXPR", "SELECT regexp_replace(sku, 'a', 'b') AS id, name FROM products"),
    ("SHAPE", "SELECT id FROM products; SELECT 1"),
    ("SHAPE", "DELETE FROM products"),
    ("SHAPE", "WITH gone AS (DELETE FROM products RETURNING id) SELECT id FROM gone"),
    ("SHAPE", "SELECT id FROM products FOR UPDATE"),
    ("SHAPE", "SELECT id FROM products WHERE id = $1"),
    ("SHAPE", "SELECT id FROM products TABLESAMPLE SYSTEM (5)"),
    ("SHAPE", "SELECT p.a AS id FROM products AS p(a, b)"),
    ("SHAPE", "SELECT 1 AS id"),
    ("SYNTAX", "SELECT id FRM products WHERE"),
    ("SYNTAX", "SELECT 'id FROM products"),
    ("UNKNOWN_TABLE", "SELECT id FROM product"),
    ("UNKNOWN_TABLE", "SELECT id FROM tenants"),
    ("KEYLESS", "SELECT line AS id FROM log"),
    ("INHERITED", "SELECT id FROM parents"),
    ("RESOLVE", "SELECT p.id, t.k FROM products p, LATERAL (SELECT min(key) AS k FROM jsonb_each(p.attrs)) t"),
    ("RESOLVE", "SELECT id, nme FROM products"),
    ("RESOLVE", "SELECT p.id, p.nme FROM products p"),
    ("RESOLVE", "SELECT p.id, x.nme FROM products p JOIN (SELECT product_id FROM stock) x ON x.product_id = p.id"),
    ("RESOLVE", "SELECT q.id FROM products p"),
    ("RESOLVE", "SELECT id, ctid FROM products"),
    ("RESOLVE", "SELECT id, _instep_pos FROM products"),
    ("STAR", "SELECT * FROM products"),
    ("STAR", "SELECT p.* FROM products p"),
    ("STAR", "SELECT id FROM (SELECT DISTINCT * FROM products) p"),
    ("WHOLE_ROW", "SELECT p.id, row_to_json(p) AS r FROM products p"),
    ("WHOLE_ROW", "SELECT p.id, count(s) AS n FROM products p LEFT JOIN stock s ON s.product_id = p.id GROUP BY p.id"),
    ("TYPE", "SELECT id, at FROM places"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "sql"), REFUSED)
def test_refused_with_its_code(code: str, sql: str) -> None:
    with pytest.raises(FlowError) as caught:
        compiled(sql)
    assert caught.value.code == code, str(caught.value)
    assert caught.value.cause.startswith("Flow f: ")
    assert caught.value.remedy


FOUND_BY_POSTGRESQL = {"OUTPUT", "KEY_NOT_UNIQUE", "KEY_CHANGED", "SCAN"}


def test_every_code_is_tried() -> None:
    assert {code for code, _ in REFUSED} | FOUND_BY_POSTGRESQL == set(REFUSALS)


def test_a_derived_table_that_stops_an_equality_is_named_with_the_reason() -> None:
    with pytest.raises(FlowError, match=r"not into it \(WINDOW\): RANK\(\) OVER") as caught:
        compiled("SELECT p.id, x.r FROM products p JOIN (SELECT product_id, rank() OVER (ORDER BY on_hand) AS r"
                 " FROM stock) x ON x.product_id = p.id")  # fmt: skip
    assert caught.value.code == "UNLINKED" and caught.value.remedy.startswith("Write PARTITION BY")


def test_an_unknown_column_is_named_with_what_exists() -> None:
    with pytest.raises(FlowError, match=r'table "public.products" has no column "nme".*Did you mean "name"') as caught:
        compiled("SELECT p.id, p.nme FROM products p")
    assert "\n" not in str(caught.value)


def test_a_partition_is_read_through_its_table() -> None:
    with pytest.raises(FlowError) as caught:
        compiled("SELECT id FROM orders_2024")
    assert "through its partitioned table" in caught.value.remedy


ACCEPTED = [
    ("SELECT id, name FROM products WHERE name = 'today'::text", ("id",)),
    ("SELECT id, name -- no end\nFROM products ; -- that was it", ("id",)),
    ("SELECT id, count(*) AS n FROM products GROUP BY 1", ("id",)),
    ("SELECT p.id, count(*) AS n FROM products p JOIN stock s ON s.product_id = p.id GROUP BY p.id", ("id",)),
    ("SELECT id, name FROM crm.tenants", ("id",)),
    ("WITH products AS (SELECT id, name FROM products WHERE active) SELECT id, name FROM products", ("id",)),
    ("SELECT p.id FROM products p WHERE EXISTS (SELECT * FROM stock s WHERE s.product_id = p.id)", ("id",)),
    ("SELECT id FROM products WHERE id NOT IN (SELECT product_id FROM stock)", ("id",)),
    ("SELECT id FROM products WHERE id = ANY (SELECT product_id FROM orders WHERE qty = ANY (SELECT on_hand FROM stock"
     "))",
     ("id",)),
    ("SELECT id FROM products WHERE id <> ALL (SELECT product_id FROM stock)", ("id",)),
    ("SELECT id, (SELECT count(*) FROM orders o WHERE o.product_id = p.id) AS n FROM products p", ("id",)),
    ("SELECT p.id, x.count FROM products p LEFT JOIN (SELECT product_id, count(*) FROM orders GROUP BY product_id) x"
     " ON x.product_id = p.id", ("id",)),
    ("SELECT lower(sku) AS code, count(*) AS n FROM products GROUP BY lower(sku)", ("code",)),
    ("SELECT qty * amount::numeric(8,2) AS worth, count(*) AS n FROM orders GROUP BY 1", ("worth",)),
    ("SELECT u.id, sum(u.n) AS n, max(p.name) AS name FROM (SELECT product_id AS id, qty AS n FROM orders UNION ALL"
     " SELECT product_id, on_hand FROM stock) u LEFT JOIN products p ON p.id = u.id GROUP BY u.id", ("id",)),
    ("SELECT p.id, v.what, v.n FROM products p CROSS JOIN LATERAL (VALUES ('supplier', p.supplier_id),"
     " ('parent', p.parent_id)) AS v(what, n)", ("id", "what")),
    *((f"SELECT p.id, (SELECT count(*) FROM orders o WHERE {each}) AS n FROM products p", ("id",)) for each in (
        "o.id IN (SELECT n.account_id FROM crm.notes n WHERE n.tenant_id = p.id)",
        "o.qty = 1 AND EXISTS (SELECT FROM crm.notes n WHERE n.account_id = o.id AND n.tenant_id = p.id)",
        "o.id = (SELECT max(n.id) FROM crm.notes n WHERE n.tenant_id = p.id)",
    )),
    ("SELECT mood::public.mood AS mood, count(*) AS n FROM moods GROUP BY 1", ("mood",)),
    ("SELECT price::text AS price, count(*) AS n FROM products GROUP BY price::text", ("price",)),
    ("SELECT CASE WHEN price > 10 THEN 'dear' END AS band, count(*) AS n FROM products GROUP BY 1", ("band",)),
    ("SELECT floor(price / 10)::int AS band, count(*) AS n FROM products GROUP BY 1", ("band",)),
    ("SELECT split_part(sku, '-', 1) AS line, count(*) AS n FROM products GROUP BY 1", ("line",)),
    ("SELECT id FROM products WHERE active OR supplier_id IN (SELECT p2.supplier_id FROM products p2)", ("id",)),
    ("SELECT id, CASE WHEN supplier_id IN (SELECT p2.id FROM suppliers p2) THEN 1 END AS x FROM products", ("id",)),
    ("SELECT p.id, s.site FROM products p LEFT JOIN stock s ON s.product_id = p.id"
     " AND (s.on_hand IN (SELECT o.qty FROM orders o) OR s.site = 'x')", ("id",)),
    ("SELECT p.id, (WITH own AS (SELECT o.qty FROM orders o WHERE o.product_id = p.id) SELECT sum(qty) FROM own) AS n"
     " FROM products p", ("id",)),
    ("SELECT p.id, t.ordinality AS no, t.word FROM products p, unnest(string_to_array(p.name, ' '))"
     " WITH ORDINALITY AS t(word)", ("id", "no")),
    ("SELECT p.id, r.a FROM products p, ROWS FROM (jsonb_array_elements(p.attrs), generate_series(1, 3)) AS r(a, b)",
     ("id",)),
    ("SELECT id, name::inet <<= '10.0.0.0/8' AS inside, '<<=' AS \"<<=\" FROM products", ("id",)),
    ("SELECT p.id, e->>'x' AS x FROM products p CROSS JOIN LATERAL jsonb_array_elements(p.attrs) e", ("id",)),
    ("SELECT a.tenant_id, a.id FROM crm.accounts a WHERE (a.tenant_id, a.id) IN"
     " (SELECT n.tenant_id, n.account_id FROM crm.notes n)", ("tenant_id", "id")),
    ("SELECT a.tenant_id, a.id, n.body FROM crm.accounts a LEFT JOIN crm.notes n"
     " ON (n.tenant_id, n.account_id) = ROW(a.tenant_id, a.id)", ("tenant_id", "id")),
    ("SELECT a.tenant_id, a.id FROM crm.accounts a WHERE NOT EXISTS (SELECT 1 FROM crm.notes n"
     " WHERE (a.tenant_id, a.id) = (n.tenant_id, n.account_id))", ("tenant_id", "id")),
    ("SELECT p.id, ARRAY(SELECT s FROM unnest(string_to_array(p.name, ' ')) AS s ORDER BY s) AS words FROM products p",
     ("id",)),
    ("SELECT p.id, k, (SELECT count(*) FROM unnest(ARRAY[k, p.sku]) AS w WHERE w > k) AS n FROM products p,"
     " jsonb_object_keys(p.attrs) AS k", ("id", "k")),
    ("SELECT p.id, p.name FROM products p WHERE EXISTS (SELECT 1 FROM jsonb_each_text(p.attrs) AS name"
     " JOIN tags t ON t.id = p.id WHERE name = p.name)", ("id",)),
    ("SELECT p.id, sum(s.on_hand) OVER w AS n, s.site FROM products p JOIN stock s ON s.product_id = p.id"
     " WINDOW v AS (PARTITION BY p.id), w AS (v ORDER BY s.site)", ("id", "site")),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "key"), ACCEPTED)
def test_accepted(sql: str, key: tuple[str, ...]) -> None:
    assert compiled(sql, *key).anchor


@pytest.mark.parametrize("order", ["qty + 0", "-(qty), o.id", "coalesce(qty, 0) DESC"])
def test_an_expression_of_order_by_reads_the_column_though_an_output_has_its_name(order: str) -> None:
    plan = compiled("SELECT p.id, x.n FROM products p, LATERAL (SELECT o.state AS qty, o.id AS n FROM orders o"
                    f" WHERE o.product_id = p.id ORDER BY {order} LIMIT 1) x")  # fmt: skip
    assert "qty" in plan.needed["public.orders"]


def test_an_expression_of_distinct_on_reads_the_column_though_an_output_has_its_name() -> None:
    sql = "SELECT DISTINCT ON (lower(name)) lower(name) AS k, category AS name FROM products ORDER BY lower(name), id"
    assert compiled(sql, "k").needed["public.products"] == ("category", "id", "name")


def test_a_table_outside_of_public_needs_no_qualified_columns() -> None:
    table = {name: each for name, each in CATALOG.items() if each.schema == "crm"}
    flow = Flow(name="f", sql="SELECT id, name FROM crm.tenants", key=("id",))
    assert compile_flow(flow, table).needed == {"crm.tenants": ("id", "name")}


def test_only_key_columns_that_windows_keep_apart_are_the_anchor() -> None:
    running = "SELECT s.site, s.product_id, sum(s.on_hand) OVER (PARTITION BY s.product_id ORDER BY s.site) AS n"
    assert compiled(f"{running} FROM stock s", "site", "product_id").anchor == ("product_id",)
    with pytest.raises(FlowError, match="the window reaches over"):
        compiled(f"{running}, rank() OVER (PARTITION BY s.site) AS r FROM stock s", "site", "product_id")


def test_the_statement_is_kept_as_the_user_wrote_it() -> None:
    assert compiled("SELECT id , name\n FROM products ;  -- end").sql == "SELECT id , name\n FROM products"


def test_walks_lead_back_through_each_join() -> None:
    plan = compiled("SELECT p.id, s.name FROM products p LEFT JOIN suppliers s ON s.id = p.supplier_id")
    assert [walk.sql for walk in plan.walks["public.products"]] == [None]
    (walk,) = plan.walks["public.suppliers"]
    assert walk.sql is not None and '"public"."products"' in walk.sql
    assert ("public.products", ('"supplier_id"',)) in plan.indexes
    assert plan.needed["public.suppliers"] == ("id", "name")


def test_all_columns_of_a_composite_join_are_walked() -> None:
    plan = compiled("SELECT a.tenant_id, a.id, n.body FROM crm.accounts a JOIN crm.notes n"
                    " ON n.tenant_id = a.tenant_id AND n.account_id = a.id", "tenant_id", "id")  # fmt: skip
    assert plan.anchor == ("tenant_id", "id")
    assert plan.walks["crm.notes"][0].image == ('"r"."tenant_id"', '"r"."account_id"')


def test_every_branch_of_a_union_leads_on() -> None:
    """A row behind a UNION is reached through each branch, or changes of it would be missed."""
    plan = compiled("SELECT p.id, s.name FROM products p JOIN (SELECT o.product_id, o.qty AS other FROM orders o"
                    " UNION ALL SELECT t.product_id, t.on_hand FROM stock t) u ON u.product_id = p.id"
                    " JOIN suppliers s ON s.id = u.other")  # fmt: skip
    via = {walk.via[0] for walk in plan.walks["public.suppliers"]}
    assert via == {"public.orders", "public.stock"}


def test_a_key_is_preferred_to_a_wide_join() -> None:
    plan = compiled("SELECT a.tenant_id, a.id, t.name FROM crm.accounts a JOIN crm.tenants t ON t.id = a.tenant_id"
                    " JOIN crm.notes n ON n.tenant_id = t.id AND n.account_id = a.id", "tenant_id", "id")  # fmt: skip
    assert [walk.image for walk in plan.walks["crm.notes"]] == [('"r"."account_id"',)]


def test_warnings() -> None:
    plan = compiled("SELECT p.id, string_agg(s.site, ',') AS sites, sum(s.weight) AS weight"
                    " FROM products p LEFT JOIN stock s ON s.product_id = p.id GROUP BY p.id")  # fmt: skip
    assert [each.split(":")[0] for each in plan.warnings] == ["UNORDERED", "FLOAT"]
    plan = compiled("SELECT p.id FROM products p JOIN orders o ON o.amount = p.id")
    assert any(each.startswith("TYPES") for each in plan.warnings)
