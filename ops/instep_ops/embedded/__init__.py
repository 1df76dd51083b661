"""The parts Instep runs on this machine itself: PostgreSQL, Kafka and, for the demo, a real CRM (Tryton).

Every part is a `Part`: `ensure` downloads and sets up (with progress), `start` brings it up and waits until it answers,
`stop` ends it in order, `kill` ends it like a power cut. Starting again keeps data and addresses. All calls block; from
a coroutine use `asyncio.to_thread`. Servers run in a session of their own, so Ctrl-C in the terminal never reaches
them; each notes its process id in its folder, and a later start ends what a crashed run left behind.
"""

from instep_ops.embedded.folder import DataFolder
from instep_ops.embedded.kafka import Kafka
from instep_ops.embedded.part import Part, Progress, silent
from instep_ops.embedded.postgres import Postgres
from instep_ops.embedded.state import state_server
from instep_ops.embedded.tryton import Tryton

__all__ = ["DataFolder", "Kafka", "Part", "Postgres", "Progress", "Tryton", "silent", "state_server"]
