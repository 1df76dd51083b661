"""Differential test of flows on any schema.

DIR holds schema.sql (any DDL, also rows) and flows/*.sql with Instep's header. Two databases are made on the embedded
PostgreSQL in a temporary folder; random changes, drawn from the catalog, go through the worker's engine with crashes,
losses and repetitions, and every document is compared, as text, with the same SELECT on the store.

One line per flow: checks, rows and differences, or the code of the refusal. Ends with 1 on differences, 2 when the
folder cannot be used.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path

import psycopg
from tests.streams.flows.difftest.run import Run, read

from instep_ops.embedded import Postgres


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.streams.flows.difftest",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dir", metavar="DIR", type=Path, help="folder with schema.sql and flows/*.sql")
    parser.add_argument("rounds", metavar="ROUNDS", type=int, nargs="?", default=20, help="of changes (20)")
    parser.add_argument("seed", metavar="SEED", type=int, nargs="?", default=1, help="of everything random (1)")
    given = parser.parse_args()
    if not (given.dir / "schema.sql").is_file() or not list((given.dir / "flows").glob("*.sql")):
        parser.error(f"{given.dir} holds no schema.sql or no flows/*.sql")
    return given


def main(folder: Path, rounds: int, seed: int) -> int:
    """Run, print one line per flow, give the exit code."""
    with tempfile.TemporaryDirectory() as data:
        server = Postgres(Path(data) / "postgres", "difftest", durable=False)
        server.ensure()
        server.start()
        try:
            run = Run(*read(folder), server.create_database("store"), server.create_database("state"), seed)
            run.run(rounds)
            run.close()
            run.store.conn.close()
        except (psycopg.Error, UnicodeDecodeError) as exc:
            if "run" in locals():
                raise
            print(f"{folder / 'schema.sql'} cannot be used: {exc}", file=sys.stderr)
            return 2
        finally:
            server.stop()
    return report(run, rounds, seed)


def report(run: Run, rounds: int, seed: int) -> int:
    """Print what became of each flow; gives the exit code."""
    for name, result in run.results.items():
        print(result.line(name))
    for table in run.store.tables:
        if not run.shop.done[table]:
            print(f"no row could be drawn for table {table}: {run.shop.refused.get(table, '')}")
    mishaps = ", ".join(f"{count} {name}" for name, count in run.mishaps.items())
    done = f"{len(run.log)} entries, {run.topic.published} documents"
    print(f"seed {seed}, {rounds} rounds, {done}, {mishaps or 'no mishap'}")
    return 1 if any(result.wrong for result in run.results.values()) else 0


if __name__ == "__main__":
    given = arguments()
    logging.disable(logging.ERROR)  # a flow's faults are told in its line
    sys.exit(main(given.dir, given.rounds, given.seed))
