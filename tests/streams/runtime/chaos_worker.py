"""One member of the group that the chaos audit kills: notes each finished batch in one append-only file.

Run as: chaos_worker.py BOOTSTRAP GROUP TOPIC FILE
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys

from instep.settings import KafkaSettings
from instep_streams.runtime import Batch, flow_agent, flow_app, run_app


async def main(bootstrap: str, group: str, topic: str, file: str) -> None:
    """Process until SIGTERM; one batch in thirty fails. Commits are rare: a kill meets work that is not committed."""
    notes = os.open(file, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    chance = random.Random()
    app = flow_app(group, KafkaSettings(bootstrap=bootstrap), batch_size=40, commit_s=2.0)

    @flow_agent(app, [topic], concurrency=3)
    async def work(batch: Batch) -> None:
        await asyncio.sleep(0.01)
        if chance.random() < 0.03:
            raise RuntimeError("by chance")
        texts = ",".join(f"{record.offset}:{(record.value or b'').decode()}" for record in batch.records)
        os.write(notes, f"done {batch.tp[1]} {texts}\n".encode())

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    await run_app(app, stop)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
