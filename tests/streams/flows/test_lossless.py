"""Values that Avro types have no room for: equal in the store, in the replica and in the documents."""

from __future__ import annotations

from pathlib import Path

import psycopg
from tests.fixtures.postgres import PostgresForTests
from tests.streams.flows.harness import Shop

from instep.settings import KafkaSettings
from instep_ops.verification.compare import same_fields
from instep_streams.flows.session import open_state

VALUES = """
(1, '{{1,2},{3,NULL}}', 'NaN', '{{1.5},{NaN}}', '294276-12-31 23:59:59.999', '__debezium_unavailable_value',
 '[0:1]={a,"b c"}', '{{sad}}', '{{1,2}}', 'NaN', repeat('x', 9000)),
(2, '{1}', 1.5, '{2}', 'infinity', 'text', '{}', '{sad}', '{7}', 1, 'short'),
(3, '[5:5]={1}', NULL, NULL, '294247-01-10 04:00:54.775807', NULL, NULL, NULL, NULL, NULL, NULL)
"""
NAMES = ("grid", "price", "prices", "at", "note", "words", "moods", "cells", "rate")


def test_replica_and_documents_hold_what_the_store_holds(
    tmp_path: Path, postgres: PostgresForTests, kafka: KafkaSettings, registry: str
) -> None:
    shop = Shop(tmp_path, postgres.database(), postgres.database(), kafka, registry)
    shop.execute(
        "CREATE TYPE mood AS ENUM ('sad', 'ok')",
        "CREATE DOMAIN cells AS int[]",
        "CREATE TABLE odd (id int PRIMARY KEY, grid int[], price numeric(12,2), prices numeric(4,2)[], at timestamp,"
        " note text, words text[], moods mood[], cells cells, rate numeric, long text)",
        "ALTER TABLE odd ALTER long SET STORAGE EXTERNAL",
        f"INSERT INTO odd VALUES {VALUES}",
    )
    columns = ", ".join(f"o.{name}" for name in NAMES)
    shop.flow("odd", "id", f"SELECT o.id, {columns}, o.grid[1][2] AS second, length(o.long) AS size FROM odd o")
    try:
        with shop.capturing() as capture, shop.working() as worker:
            shop.settle(capture, worker)
            shop.execute(
                f"INSERT INTO odd SELECT id + 10, {', '.join(NAMES)}, long FROM odd",
                "UPDATE odd SET price = 'NaN', note = note || '' WHERE id < 10",  # `long` is not sent
                "UPDATE odd SET id = id + 100 WHERE id > 10",
            )
            shop.settle(capture, worker)
            found, expected = shop.folded("odd"), shop.expected("odd")
    finally:
        shop.close()
    assert found.keys() == expected.keys() == {(str(number),) for number in (1, 2, 3, 111, 112, 113)}
    assert [key for key in found if not same_fields(found[key], expected[key])] == []
    assert found["111",]["grid"] == [[1, 2], [3, None]] and found["111",]["price"].is_nan()
    assert found["1",]["size"] == 9000
    texts = f"SELECT {', '.join(f'{name}::text' for name in NAMES)} FROM public.odd ORDER BY id"
    with psycopg.connect(shop.dsn) as store, open_state(shop.state) as state:
        held = state.execute(texts.replace("public.odd", replica_of(state)).encode()).fetchall()
        assert held == store.execute(texts.encode()).fetchall()


def replica_of(state: psycopg.Connection) -> str:
    """The replica's table, in whatever schema it is."""
    query = (
        "SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) FROM pg_tables WHERE tablename LIKE '%odd%'"
    )
    ((name,),) = state.execute(query.encode()).fetchall()
    return str(name)
