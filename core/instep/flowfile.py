"""A flow file: one SELECT with a leading comment block in TOML that says where its documents go.

/* instep
target = "crm"   object = "product.product"      # several settings may share a line
key    = "sku"   delete = "deactivate"
*/
SELECT p.sku, p.name, … FROM products p …
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from instep.errors import FlowError
from instep.protocols import Delete
from instep.settings import Model
from instep.timing import Schedule, Timing, interval
from instep.topics import flow_topic

_HEADER = re.compile(r"\A\s*/\*\s*instep\b(?P<toml>.*?)\*/", re.DOTALL)
_CUT_SCHEDULE = re.compile(r"""\bschedule[ \t]*=[ \t]*(["'])[^"'\n]*\Z""")
_SHARED_LINE = re.compile(r"""("[^"\n]*"|'[^'\n]*'|\]|\b(?:true|false|\d+))[ \t]+(?=[a-z_]+[ \t]*=)""")


class Flow(Model):
    """One flow as its file defines it.

    `sql` is the user's text, unchanged: it is evaluated as it stands.
    """

    name: str = Field(description="the file's name without `.sql`")
    sql: str = Field(description="the SELECT")
    key: tuple[str, ...] = Field(min_length=1, description="output column(s) that identify a document")
    source: str = Field("", description="the source whose tables it reads; default: the only one")
    target: str | None = Field(None, description="the target its documents are delivered to; none: only the topic")
    object: str = Field("", description="object type in the target, `product.product`")
    fields: tuple[str, ...] | None = Field(None, description="columns that are delivered; default: all")
    transform: str = Field(
        "", pattern=r"^([A-Za-z_][\w.]*:[A-Za-z_]\w*)?$", description="`module:function` that makes a target's fields"
    )
    delete: Delete = Field(Delete.DEACTIVATE, description="what a vanished row does to the record")
    schedule: str = Field("", description="when its documents come, as cron writes it, `0 2 * * *`; default: at once")
    time_zone: str = Field("", description="the zone that `schedule` is meant in, `Europe/Berlin`; default: UTC")
    min_interval: str = Field("", description="least time between two documents of a key, `5s`; default: none")

    @field_validator("key", "fields", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _named(self) -> Flow:
        if self.transform and not (self.target and self.fields):
            raise ValueError("transform needs target, and fields: the columns that the function gives")
        return self

    @model_validator(mode="after")
    def _timed(self) -> Flow:
        if self.schedule and self.min_interval:
            raise ValueError("schedule and min_interval do not go together: choose one")
        if self.time_zone and not self.schedule:
            raise ValueError("time_zone needs schedule")
        _ = self.timing
        return self

    @property
    def told_timing(self) -> str:
        """When its documents come, in words."""
        return str(self.timing or "at once")

    @property
    def timing(self) -> Timing | None:
        """When its documents come; None: at once."""
        if self.schedule:
            return Schedule(self.schedule, self.time_zone or "UTC")
        return interval(self.min_interval) if self.min_interval else None

    @property
    def delivered(self) -> tuple[str, ...] | None:
        """The columns a target receives, or None for all."""
        return self.fields


def parse(name: str, text: str) -> Flow:
    """Read a flow file's text.

    Raises:
        FlowError: HEADER for a missing or wrong header, naming the setting.
    """
    found = _HEADER.match(text)
    if found is None:
        raise FlowError("HEADER", f"Flow {name} has no header.", 'Begin the file with /* instep  key = "…" */.')
    if _CUT_SCHEDULE.search(found["toml"]):
        raise FlowError(
            "HEADER", f"The header of flow {name}: the `*/` in schedule ends the comment.", "Write 0-59/15 for */15."
        )
    try:
        raw = tomllib.loads(_SHARED_LINE.sub(r"\1\n", found["toml"]))
        return Flow(name=name, sql=text[found.end() :].strip().rstrip(";").rstrip(), **raw)
    except tomllib.TOMLDecodeError as exc:
        raise FlowError("HEADER", f"The header of flow {name} is not valid TOML: {exc}.") from None
    except ValidationError as exc:
        first = exc.errors()[0]
        setting = ".".join(str(part) for part in first["loc"])
        told = first["msg"].removeprefix("Value error, ")
        raise FlowError("HEADER", f"The header of flow {name}: {setting}{': ' if setting else ''}{told}.") from None
    except TypeError as exc:
        raise FlowError("HEADER", f"The header of flow {name}: {exc}.", "`name` and `sql` are not settings.") from None


def load_all(folder: Path) -> dict[str, Flow]:
    """Read every `*.sql` of a folder, by name.

    Raises:
        FlowError: a file cannot be read, its header is wrong, or two of them would share a topic.
    """
    flows: dict[str, Flow] = {}
    topics: dict[str, str] = {}
    for file in sorted(folder.glob("*.sql")):
        other = topics.setdefault(flow_topic(file.stem), file.stem)
        if other != file.stem:
            raise FlowError(
                "HEADER", f"Flows {other!r} and {file.stem!r} would both write the topic {flow_topic(other)}.",
                "Rename one of the files: only letters, digits, `.`, `_` and `-` come into a topic's name as they are.",
            )  # fmt: skip
        try:
            flows[file.stem] = parse(file.stem, file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as exc:
            raise FlowError("HEADER", f"{file} cannot be read: {exc}.") from exc
    return flows
