"""A shop with a second source joined to it, the database of a CRM, whose `public` flows call `crm`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from tests.fixtures.registry import until
from tests.streams.flows.harness import InThread, Shop

from instep.settings import KafkaSettings, parse
from instep_streams.capture import process as capture
from instep_streams.flows import process as worker
from instep_streams.flows.status import status

PRODUCTS, STOCK, DEBT = 12, 100, 40
SHOP = f"""
CREATE TABLE products (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE stock_levels (product_id int, site text, on_hand int NOT NULL, PRIMARY KEY (product_id, site));
INSERT INTO products SELECT i, 'product ' || i FROM generate_series(1, {PRODUCTS}) i;
INSERT INTO stock_levels SELECT i, s, {STOCK // 2} FROM generate_series(1, {PRODUCTS}) i, unnest(ARRAY['n', 's']) s;
"""
CRM = f"""
CREATE TYPE kind AS ENUM ('owed', 'paid');
CREATE DOMAIN share AS numeric(6,2) CHECK (VALUE >= 0);
CREATE TABLE products (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE ledger (product_id int, kind kind, amount int NOT NULL, share share, PRIMARY KEY (product_id, kind));
INSERT INTO products SELECT i, 'in the CRM ' || i FROM generate_series(1, {PRODUCTS}) i;
INSERT INTO ledger SELECT i, k, {DEBT // 2}, i FROM generate_series(1, {PRODUCTS}) i, unnest(enum_range(NULL::kind)) k;
"""
BOTH = """SELECT p.id, p.name, c.name AS called, n.on_hand AS north, s.on_hand AS south, o.amount AS owed,
    d.amount AS paid, o.share, o.kind
FROM products p
JOIN stock_levels n ON n.product_id = p.id AND n.site = 'n'
JOIN stock_levels s ON s.product_id = p.id AND s.site = 's'
LEFT JOIN crm.products c ON c.id = p.id
LEFT JOIN crm.ledger o ON o.product_id = p.id AND o.kind = 'owed'
LEFT JOIN crm.ledger d ON d.product_id = p.id AND d.kind = 'paid'"""


class Joined(Shop):
    """Two stores, two captures, one worker."""

    def __init__(
        self, folder: Path, dsn: str, crm: str, state: str, kafka: KafkaSettings, registry: str
    ) -> None:  # fmt: skip
        super().__init__(folder, dsn, state, kafka, registry)
        self.crm, self.crm_dsn = f"{self.name}crm", crm
        # small batches: most transactions go on in a next entry
        own = {"dsn": dsn, "slot": f"slot_{self.name}", "batch_changes": 3, "partitions": 3}
        other = {"dsn": crm, "slot": f"slot_{self.crm}", "batch_changes": 3, "joined_to": self.name, "as_schema": "crm"}
        self.settings = parse(
            {
                "name": self.name,
                "sources": {self.name: own, self.crm: other},
                "kafka": {"bootstrap": kafka.bootstrap},
                "registry": {"url": registry},
                "state": {"dsn": state},
            },
            folder,
        )
        self.execute(SHOP)
        self.in_crm(CRM)
        self.flow("both", "id", BOTH)

    def forget(self, flow: str) -> None:
        (self.folder / "flows" / f"{self.named(flow)}.sql").unlink()

    def share_among(self, workers: int) -> None:
        own = self.settings.sources[self.name].model_copy(update={"workers": workers})
        self.settings = self.settings.model_copy(update={"sources": self.settings.sources | {self.name: own}})

    def in_crm(self, *statements: str) -> None:
        with psycopg.connect(self.crm_dsn, autocommit=True) as conn:
            for statement in statements:
                conn.execute(statement.encode())

    @contextmanager
    def capturing_both(self) -> Iterator[list[InThread]]:
        with ExitStack() as stack:
            found = [InThread(capture.run, self.settings, name) for name in (self.name, self.crm)]
            for each in found:
                stack.callback(each.stop)
            yield found
        for each in found:
            each.check()

    def settle_both(self, *checked: InThread) -> None:
        """Wait until every committed change of both stores is in the flow topics."""
        aims = {}
        for name, dsn in ((self.name, self.dsn), (self.crm, self.crm_dsn)):
            with psycopg.connect(dsn, autocommit=True) as conn:
                row = conn.execute("SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint").fetchone()
                conn.execute("SELECT pg_logical_emit_message(true, 'instep', 'test')")
            aims[name] = row[0] if row else 0

        def there() -> bool:
            for each in checked:
                each.check()
            return all(self._reached(name, lsn) for name, lsn in aims.items())

        until(there, 90, f"documents up to {aims}")

    def _reached(self, source: str, lsn: int) -> bool:
        now = status(self.settings, source)
        if now["position"] is None or now["more"] or now["emitted_journal_batch"] < now["batch"]:
            return False
        high, low = now["position"].split(":")[1].split("/")
        return bool((int(high, 16) << 32) + int(low, 16) + 1 >= lsn)

    def joined_by_hand(self) -> dict[tuple[str, ...], dict[str, Any]]:
        """What `BOTH` gives, put together here from a query of each store."""
        with psycopg.connect(self.dsn) as conn:
            rows = conn.execute(
                "SELECT id, name, n.on_hand, s.on_hand FROM products JOIN stock_levels n ON n.product_id = id"
                " AND n.site = 'n' JOIN stock_levels s ON s.product_id = id AND s.site = 's'"
            ).fetchall()
        with psycopg.connect(self.crm_dsn) as conn:
            names: dict[int, str] = dict(conn.execute("SELECT id, name FROM products").fetchall())
            sums = {(key, kind): (amount, share) for key, kind, amount, share in conn.execute(
                "SELECT product_id, kind::text, amount, share FROM ledger").fetchall()}  # fmt: skip
        found: dict[tuple[str, ...], dict[str, Any]] = {}
        for key, name, north, south in rows:
            owed, share = sums.get((key, "owed"), (None, None))
            found[(str(key),)] = {
                "id": key, "name": name, "called": names.get(key), "north": north, "south": south, "owed": owed,
                "paid": sums.get((key, "paid"), (None, None))[0], "share": share,
                "kind": None if owed is None else "owed",
            }  # fmt: skip
        return found

    @contextmanager
    def moving(self) -> Iterator[None]:
        """Transactions in each store that move between two rows, of several products at once: no sum ever changes."""
        stop = threading.Event()
        stock = "UPDATE stock_levels SET on_hand = on_hand + %s WHERE product_id = %s AND site = %s"
        debt = "UPDATE ledger SET amount = amount + %s WHERE product_id = %s AND kind = %s"
        threads = [
            threading.Thread(target=_move, args=(self.dsn, stock, ("n", "s"), stop)),
            threading.Thread(target=_move, args=(self.crm_dsn, debt, ("owed", "paid"), stop)),
        ]
        for each in threads:
            each.start()
        try:
            yield
        finally:
            stop.set()
            for each in threads:
                each.join()

    def working_on(self) -> InThread:
        return InThread(worker.run, self.settings, self.name)

    def close(self) -> None:
        super().close()
        with psycopg.connect(self.crm_dsn, autocommit=True) as conn:
            conn.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s",
                (self.settings.sources[self.crm].slot,),
            )


def _move(dsn: str, statement: str, sides: tuple[str, str], stop: threading.Event) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        number = 0
        while not stop.wait(0.05):
            number += 1
            with conn.transaction():
                for side, amount in zip(sides, (1, -1), strict=True):
                    for product in (number % PRODUCTS + 1, (number + 5) % PRODUCTS + 1):
                        conn.execute(statement.encode(), (amount, product, side))
