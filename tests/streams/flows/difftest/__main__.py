"""`python -m tests.streams.flows.difftest DIR [ROUNDS] [SEED]`: one line per flow; ends with 1 on differences.

DIR holds schema.sql and flows/*.sql; the DML is drawn from the catalog. Two databases are made on the embedded
PostgreSQL, in a temporary folder.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.streams.flows.difftest.run import Run

from instep_ops.embedded import Postgres


def main(folder: Path, rounds: int, seed: int) -> int:
    """Run, print one line per flow, give the exit code."""
    with tempfile.TemporaryDirectory() as data:
        server = Postgres(Path(data) / "postgres", "difftest", durable=False)
        server.ensure()
        server.start()
        try:
            run = Run(folder, server.create_database("store"), server.create_database("state"), seed)
            run.run(rounds)
            run.close()
        finally:
            server.stop()
    for name, result in run.results.items():
        print(result.line(name))
    mishaps = ", ".join(f"{count} {name}" for name, count in run.mishaps.items())
    done = f"{len(run.log)} entries, {run.topic.published} documents"
    print(f"seed {seed}, {rounds} rounds, {done}, {mishaps or 'no mishap'}")
    return 1 if any(result.differences for result in run.results.values()) else 0


if __name__ == "__main__":
    given = sys.argv[1:] + ["20", "1"][len(sys.argv) - 2 :]
    sys.exit(main(Path(given[0]), int(given[1]), int(given[2])))
