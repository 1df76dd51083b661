"""Free agents of a project: Python functions in `agents/*.py` that read flows' documents and send records.

from instep_streams.agents import Document, Send, agent

@agent("card", to=["low_stock"])
async def low(documents: Sequence[Document]) -> Sequence[Send]:
    return [Send("low_stock", d.key[0], dict(d.fields)) for d in documents if d.fields and d.fields["available"] < 5]
"""

from instep.protocols import Document
from instep_streams.agents.declare import Agent, Send, agent

__all__ = ["Agent", "Document", "Send", "agent"]
