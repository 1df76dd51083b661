"""What capture writes, on a real store, broker and registry."""

from __future__ import annotations

import json
import random
import threading

import psycopg
from tests.streams.capture.conftest import MakeShop
from tests.streams.capture.harness import Shop, until

from instep.change import ABSENT, POSITION_HEADER, Op, Position
from instep_connectors.kafka import read_topic
from instep_schemas.client import RegistryClient
from instep_schemas.decode import decode_key
from instep_schemas.records import decode, unframe

PRODUCTS = """CREATE TABLE products (id int PRIMARY KEY, sku text NOT NULL, price numeric(10,2), tags text[],
              attributes jsonb, version int NOT NULL DEFAULT 1, note text)"""


def key_texts(shop: Shop, key: bytes) -> dict[str, str | None]:
    schema_id, body = unframe(key)
    client = RegistryClient(shop.settings.registry.url)
    try:
        return decode_key(client.schema(schema_id))(body)
    finally:
        client.close()


def ops(shop: Shop, table: str) -> list[str]:
    """Operations in the order of their positions; `-` is a tombstone."""
    changes = [
        (Position.unpack(dict(record.headers)[POSITION_HEADER]), i, envelope.op.value if envelope else "-")
        for i, (record, envelope) in enumerate(shop.changes(table))
    ]
    return [op for _, _, op in sorted(changes)]


def test_rows_come_by_snapshot_then_changes_by_stream(make_shop: MakeShop) -> None:
    shop = make_shop(
        PRODUCTS, "INSERT INTO products (id, sku, price) SELECT i, 'sku' || i, i FROM generate_series(1, 50) i"
    )
    with shop.capturing() as running:
        shop.execute(
            """INSERT INTO products (id, sku, tags, attributes)
               VALUES (100, 'new', '{a,NULL,"b c"}', '{"a": [1, null]}')""",
            "UPDATE products SET price = 9.99 WHERE id = 1",
            "DELETE FROM products WHERE id = 2",
        )
        shop.await_captured(running)
        audit = shop.audit()
    assert audit.ok, audit.problems
    assert audit.rows == 50
    assert ops(shop, "public.products") == ["r"] * 50 + ["c", "u", "d", "-"]
    markers = [e.snapshot for _, e in shop.changes("public.products") if e and e.op is Op.READ]
    assert sorted(markers) == ["first", "last", *["true"] * 48]


def test_a_key_change_is_delete_tombstone_create_under_one_position(make_shop: MakeShop) -> None:
    shop = make_shop("CREATE TABLE t (id int PRIMARY KEY, a text)", "INSERT INTO t VALUES (1, 'x')")
    with shop.capturing() as running:
        shop.execute("UPDATE t SET id = 2")
        shop.await_captured(running)
        assert shop.audit().ok
    moved = [(r, e) for r, e in shop.changes("public.t") if len(r.headers) == 2]
    by_kind = {"-" if e is None else e.op.value: r for r, e in moved}
    assert by_kind.keys() == {"d", "-", "c"}
    assert len({dict(r.headers)[POSITION_HEADER] for r in by_kind.values()}) == 1
    assert by_kind["d"].key == by_kind["-"].key and by_kind["d"].offset < by_kind["-"].offset
    assert key_texts(shop, by_kind["d"].key or b"") == {"id": "1"}
    assert key_texts(shop, by_kind["c"].key or b"") == {"id": "2"}
    assert dict(by_kind["d"].headers)["__debezium.newkey"] == b'{"id":2}'
    assert dict(by_kind["c"].headers)["__debezium.oldkey"] == b'{"id":1}'
    counts = [entry.counts["public.t"] for entry in shop.journal() if not entry.snapshot and entry.counts]
    assert [(c.delete, c.create, c.update) for c in counts] == [(1, 1, 0)]


def test_truncate_reaches_every_partition_and_counts_once(make_shop: MakeShop) -> None:
    shop = make_shop(
        "CREATE TABLE a (id int PRIMARY KEY)",
        "CREATE TABLE b (id int PRIMARY KEY)",
        "INSERT INTO a SELECT generate_series(1, 20)",
    )
    with shop.capturing() as running:
        shop.execute("TRUNCATE a, b", "INSERT INTO a VALUES (7)")
        shop.await_captured(running)
        audit = shop.audit()
    assert audit.ok, audit.problems
    for table in ("public.a", "public.b"):
        truncates = [r for r, e in shop.changes(table) if e and e.op is Op.TRUNCATE]
        assert sorted(r.partition for r in truncates) == [0, 1, 2]
        assert all(r.key is None for r in truncates)
        assert sum(entry.counts[table].truncate for entry in shop.journal() if table in entry.counts) == 1


def test_an_unchanged_toast_value_is_absent_and_never_null(make_shop: MakeShop) -> None:
    shop = make_shop(
        "CREATE TABLE t (id int PRIMARY KEY, n int, big text, list text[])",
        "ALTER TABLE t ALTER big SET STORAGE EXTERNAL, ALTER list SET STORAGE EXTERNAL",
        "CREATE TABLE f (id int PRIMARY KEY, n int, big text)",
        "ALTER TABLE f ALTER big SET STORAGE EXTERNAL",
        "ALTER TABLE f REPLICA IDENTITY FULL",
        "INSERT INTO t VALUES (1, 1, repeat('x', 9000), ARRAY[repeat('y', 9000)])",
        "INSERT INTO f VALUES (1, 1, repeat('x', 9000))",
    )
    with shop.capturing() as running:
        shop.execute(
            "UPDATE t SET n = 2",
            "UPDATE f SET n = 2",
            "UPDATE t SET big = NULL",
            "UPDATE t SET id = 5",
            "UPDATE f SET id = 5",
        )
        shop.await_captured(running)
        audit = shop.audit()
    assert audit.ok, audit.problems
    rows = [e.after for _, e in shop.changes("public.t") if e and e.op is Op.UPDATE and e.after]
    assert [(row["big"], row["list"]) for row in rows] == [(ABSENT, ABSENT), (None, ABSENT)]
    (full,) = [e.after for _, e in shop.changes("public.f") if e and e.op is Op.UPDATE and e.after]
    assert full["big"] == "x" * 9000


def test_a_toasted_key_is_found_again_in_an_update_that_leaves_it(make_shop: MakeShop) -> None:
    shop = make_shop(
        "CREATE TABLE t (k text PRIMARY KEY, n int)",
        "ALTER TABLE t ALTER k SET STORAGE EXTERNAL",
        "INSERT INTO t VALUES (repeat('k', 2600), 1)",
    )
    with shop.capturing() as running:
        shop.execute("UPDATE t SET n = 2")
        shop.await_captured(running)
        audit = shop.audit()
    assert audit.ok, audit.problems
    assert ops(shop, "public.t") == ["r", "u"]


def test_nothing_is_lost_or_doubled_between_snapshot_and_stream(make_shop: MakeShop) -> None:
    shop = make_shop(
        PRODUCTS, "INSERT INTO products (id, sku) SELECT i, 's' FROM generate_series(1, 3000) i", batch_changes=100
    )
    stop = threading.Event()

    def write(number: int) -> None:
        dice = random.Random(number)
        with psycopg.connect(shop.dsn) as conn:
            while not stop.is_set():
                for _ in range(dice.randint(1, 4)):
                    key = dice.randint(1, 4000)
                    conn.execute(
                        "INSERT INTO products (id, sku) VALUES (%s, 'n') ON CONFLICT (id) DO UPDATE"
                        " SET version = products.version + 1",
                        (key,),
                    )
                    if dice.random() < 0.2:
                        conn.execute("DELETE FROM products WHERE id = %s", (dice.randint(1, 4000),))
                if dice.random() < 0.9:
                    conn.commit()
                else:
                    conn.rollback()
                stop.wait(0.01)

    def guarded(number: int) -> None:
        while not stop.is_set():
            try:
                write(number)
            except psycopg.errors.DeadlockDetected:
                continue

    writers = [threading.Thread(target=guarded, args=(n,)) for n in range(3)]
    for writer in writers:
        writer.start()
    try:
        with shop.capturing() as running:
            until(lambda: not any(e.more for e in shop.journal()[-1:]), what="snapshot complete")
            streamed = until(lambda: sum(e.changes for e in shop.journal() if not e.snapshot) > 300)
            assert streamed
            audit = shop.audit()  # while the writers go on
            assert audit.ok, audit.problems
            stop.set()
            for writer in writers:
                writer.join()
            shop.await_captured(running)
            audit = shop.audit()
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert audit.ok, audit.problems
    assert audit.rows > 1000


def test_a_huge_transaction_is_split_and_closed(make_shop: MakeShop) -> None:
    shop = make_shop("CREATE TABLE t (id int PRIMARY KEY)", batch_changes=100)
    with shop.capturing() as running:
        shop.execute("INSERT INTO t SELECT generate_series(1, 1000)")
        shop.await_captured(running)
        audit = shop.audit()
    assert audit.ok, audit.problems
    journal = shop.journal()
    parts = [entry for entry in journal if entry.more and not entry.snapshot]
    assert len(parts) >= 9
    assert {entry.last.lsn for entry in parts} == {parts[0].last.lsn}
    closing = journal[journal.index(parts[-1]) + 1]
    assert not closing.more and closing.last.lsn >= parts[0].last.lsn
    assert sum(entry.changes for entry in [*parts, closing]) == 1000


def test_ddl_between_and_inside_transactions_decodes_each_row_by_its_own_columns(make_shop: MakeShop) -> None:
    shop = make_shop("CREATE TABLE t (id int PRIMARY KEY, a text)", "INSERT INTO t VALUES (1, 'before')")
    with shop.capturing() as running:
        with shop.store() as conn, conn.transaction():
            conn.execute("INSERT INTO t VALUES (2, 'x')")
            conn.execute("ALTER TABLE t ADD b int NOT NULL DEFAULT 7")
            conn.execute("INSERT INTO t VALUES (3, 'y', 8)")
        shop.execute(
            "ALTER TABLE t RENAME a TO c", "INSERT INTO t VALUES (4, 'z', 9)", "UPDATE t SET c = 'u' WHERE id = 1"
        )
        shop.execute("ALTER TABLE t DROP b", "INSERT INTO t VALUES (5, 'w')")
        shop.await_captured(running)
    rows = {
        e.after["id"]: {n: v for n, v in e.after.items() if n != "id"}
        for _, e in shop.changes("public.t") if e and e.after and e.op is not Op.READ
    }  # fmt: skip
    assert rows == {
        "2": {"a": "x"},
        "3": {"a": "y", "b": "8"},
        "4": {"c": "z", "b": "9"},
        "1": {"c": "u", "b": "7"},
        "5": {"c": "w"},
    }


def test_rows_older_than_a_not_null_are_not_refused(make_shop: MakeShop) -> None:
    shop = make_shop("CREATE TABLE t (id int PRIMARY KEY, a text)")
    with shop.capturing():
        pass
    shop.execute(
        "INSERT INTO t VALUES (1, NULL)",
        "DELETE FROM t",
        "ALTER TABLE t ALTER a SET NOT NULL",
        "INSERT INTO t VALUES (2, 'x')",
    )
    with shop.capturing() as running:
        shop.await_captured(running)
        audit = shop.audit()
    assert audit.ok, audit.problems
    assert audit.rejected == 0
    assert ops(shop, "public.t") == ["c", "d", "-", "c"]


def test_special_values_of_many_types_survive_snapshot_and_stream(make_shop: MakeShop) -> None:
    values = """'infinity', '-infinity', 'NaN', -0.0, '9999-12-31 23:59:59.999999', '0044-03-15 BC', '24:00:00',
                '-1 mon +2 days -00:00:00.000001', '{1,NULL}', '{a,"NULL"}',
               '\\x00ff', B'101', '10.0.0.0/8',
                '[1,5)', '{"big": 123456789012345678901234567890}', '12:00:00.5+05:30:15'"""
    columns = """d date, ts timestamptz, n numeric, f float8, far timestamp, bc date, t time, i interval, m int[],
                 b text[],                 raw bytea, bits varbit, net cidr, r int4range, j jsonb, tz timetz"""
    shop = make_shop(
        f"CREATE TABLE v (id int PRIMARY KEY, {columns})",
        f"INSERT INTO v VALUES (1, {values})",
        "INSERT INTO v (id) VALUES (2)",
    )
    with shop.capturing() as running:
        shop.execute(f"INSERT INTO v VALUES (3, {values})", "INSERT INTO v (id) VALUES (4)")
        shop.await_captured(running)
        audit = shop.audit()
    assert audit.ok, audit.problems
    assert (audit.rows, audit.rejected) == (4, 0)
    rows = {
        e.after["id"]: {k: v for k, v in e.after.items() if k != "id"}
        for _, e in shop.changes("public.v")
        if e and e.after
    }
    assert rows["1"] == rows["3"] and rows["2"] == rows["4"]


def test_a_label_added_to_an_enum_is_known_to_the_rows_behind_it(make_shop: MakeShop) -> None:
    """ALTER TYPE sends no RELATION when the table was told before."""
    shop = make_shop("CREATE TYPE mood AS ENUM ('ok')", "CREATE TABLE t (id int PRIMARY KEY, m mood, all_m mood[])")
    with shop.capturing() as running:
        shop.execute("INSERT INTO t VALUES (1, 'ok', '{ok}')")
        shop.await_captured(running)
        shop.execute(
            "ALTER TYPE mood ADD VALUE 'new'",
            "INSERT INTO t VALUES (2, 'new', NULL)",
            "UPDATE t SET all_m = '{new,ok}' WHERE id = 1",
        )
        shop.await_captured(running)
        audit = shop.audit()
    assert audit.ok, audit.problems
    assert (audit.rows, audit.rejected) == (2, 0)


def test_an_idle_slot_moves_while_only_another_database_is_written(make_shop: MakeShop) -> None:
    shop = make_shop("CREATE TABLE t (id int PRIMARY KEY)", heartbeat_s=0.2)
    other = make_shop("CREATE TABLE o (id int)")
    confirmed = f"SELECT confirmed_flush_lsn - '0/0' FROM pg_replication_slots WHERE slot_name = '{shop.slot}'"
    with shop.capturing():
        other.execute("INSERT INTO o SELECT generate_series(1, 20000)")
        written = other.value("SELECT pg_current_wal_lsn() - '0/0'")
        until(lambda: shop.value(confirmed) >= written, 20, "the slot passes the other database's WAL")
        last = shop.last()
        assert last is not None and last.last.lsn + 1 >= written


def test_the_stores_own_writes_hold_no_wal_back(make_shop: MakeShop) -> None:
    shop = make_shop("CREATE TABLE t (id int PRIMARY KEY)", heartbeat_s=0.2)
    place = f"FROM pg_replication_slots WHERE slot_name = '{shop.slot}'"
    with shop.capturing():
        written = shop.value("SELECT pg_switch_wal() - '0/0'")
        shop.execute("VACUUM t", "CHECKPOINT")
        until(lambda: shop.value(f"SELECT restart_lsn - '0/0' {place}") >= written, 20, "the slot lets go of the WAL")


def test_stored_generated_columns_of_the_publication_are_columns_like_others(make_shop: MakeShop) -> None:
    shop = make_shop(
        "CREATE TABLE t (id int PRIMARY KEY, a int, g int GENERATED ALWAYS AS (a * 2) STORED)",
        "INSERT INTO t VALUES (1, 2)",
        "CREATE PUBLICATION instep FOR TABLE t WITH (publish_generated_columns = stored)",
    )  # fmt: skip
    with shop.capturing() as running:
        shop.execute("INSERT INTO t VALUES (2, 3)", "UPDATE t SET a = 5 WHERE id = 1")
        shop.await_captured(running)
        audit = shop.audit()
    assert audit.ok, audit.problems
    after = [(e.op.value, e.after["id"], e.after["g"]) for _, e in shop.changes("public.t") if e and e.after]
    assert sorted(after) == [("c", "2", "6"), ("r", "1", "4"), ("u", "1", "10")]


def test_tables_outside_the_settings_stay_out(make_shop: MakeShop) -> None:
    shop = make_shop(
        "CREATE TABLE wanted (id int PRIMARY KEY)", "CREATE TABLE other (id int PRIMARY KEY)",
        "CREATE PUBLICATION instep FOR ALL TABLES", tables=("public.wanted",),
    )  # fmt: skip
    with shop.capturing() as running:
        shop.execute("INSERT INTO other VALUES (1)", "INSERT INTO wanted VALUES (1)")
        shop.await_captured(running)
    assert {table for entry in shop.journal() for table in entry.counts} == {"public.wanted"}


def test_a_change_that_avro_cannot_carry_waits_in_the_dead_letters(make_shop: MakeShop) -> None:
    """Its place in the journal is kept: counted as rejected, in the same transaction as its neighbours."""
    far = "'294276-12-31 23:59:59.999999'"  # microseconds since 1970 do not fit into 64 bits; a key has no stand-ins
    shop = make_shop(
        "CREATE TABLE t (id int, a timestamp, PRIMARY KEY (id, a))", f"INSERT INTO t VALUES (1, {far}), (2, now())"
    )
    with shop.capturing() as running:
        shop.execute(f"INSERT INTO t VALUES (3, {far}), (4, now())")
        shop.await_captured(running)
        audit = shop.audit()
    assert (audit.rejected, audit.changes, audit.problems) == (2, 4, ["public.t: 2 rows in the store only"])
    letters = [
        decode("dead_letter", unframe(r.value)[1])
        for r in read_topic(shop.settings.kafka, f"{shop.name}.__dead")
        if r.value
    ]
    assert [(each["flow"], each["key"], each["field"]) for each in letters] == [
        ("public.t", [key, far.strip("'")], "a") for key in ("1", "3")
    ]
    assert json.loads(letters[1]["document"]) == {"op": "c", "before": None, "after": {"id": "3", "a": far.strip("'")}}


def test_a_row_of_some_megabytes_is_no_exception(make_shop: MakeShop) -> None:
    shop = make_shop("CREATE TABLE t (id int PRIMARY KEY, a text)", "INSERT INTO t VALUES (1, repeat('x', 3000000))")
    with shop.capturing() as running:
        shop.execute("INSERT INTO t VALUES (2, repeat('y', 4000000))")
        shop.await_captured(running)
        audit = shop.audit()
    assert audit.ok, audit.problems
    assert (audit.rows, audit.rejected) == (2, 0)
