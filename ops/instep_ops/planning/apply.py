"""`instep apply`: do what a plan says, but only on the cluster that it was made for. Blocking."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from instep.errors import ConfigError
from instep.settings import Settings
from instep_connectors.kafka import TopicSpec, ensure_topics
from instep_connectors.kafka.described import configure
from instep_ops.planning.asking import LOCK
from instep_ops.planning.desired import wishes
from instep_ops.planning.locking import locked
from instep_ops.planning.removal import Fate, remove
from instep_ops.planning.steps import Act, Plan, Step
from instep_ops.planning.subjects import write
from instep_schemas.administration import RegistryAdmin


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done.

    Attributes:
        done: steps carried out.
        left: steps that were not: refused, or harmful and not allowed.
        others: steps that the processes do themselves.
        lock: whether `schemas.lock` was written.
    """

    done: tuple[Step, ...]
    left: tuple[Step, ...]
    others: tuple[Step, ...]
    lock: bool

    @property
    def ok(self) -> bool:
        """Whether nothing is left."""
        return not self.left

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        shown = {name: [f"{s.act}: {s.name}" for s in getattr(self, name)] for name in ("done", "left", "others")}
        return {"ok": self.ok, **shown, "lock": self.lock}


def check_unmoved(plan: Plan, file: Mapping[str, Any]) -> None:
    """Refuse a plan that was made for another state of the cluster, or another project.

    Raises:
        ConfigError: says what has moved.
    """
    if file["project"] != plan.project:
        raise ConfigError(f"The plan is of project {file['project']}, this is {plan.project}.")
    moved = plan.moved(file)
    if moved:
        raise ConfigError(
            f"The cluster has moved on since the plan was made ({len(moved)} differences, first: {moved[0]}).",
            "Make a new plan and look at it.",
        )
    then = [[step["act"], step["name"], step["wanted"]] for step in file["steps"]]
    if then != [[step.act, step.name, dict(step.wanted)] for step in plan.steps]:
        raise ConfigError("The project's files have changed since the plan was made.", "Make a new plan.")


def apply(
    settings: Settings,
    admin: RegistryAdmin,
    plan: Plan,
    allowed: Collection[str],
    told: Callable[[Step], None] | None = None,
    documents: Mapping[str, Fate] | None = None,
) -> Outcome:
    """Carry out the steps of a plan that was just made, one after the other, and write the lock.

    Args:
        settings: resolved.
        admin: of the project's registry.
        plan: from `make_plan`.
        allowed: names whose harmful steps are meant.
        told: called with each step when it is done.
        documents: by removed flow, what happens to its documents.

    Raises:
        InstepError, ConnectionError, TimeoutError: a part refuses or does not answer; what was done stays.
    """
    decided = documents or {}
    done: list[Step] = []
    left: list[Step] = []
    for step in plan.steps:
        if step.by_others or step.act is Act.WRITE_LOCK:
            continue
        undecided = bool(step.asks) and step.name not in decided
        if step.refused or undecided or (step.harm and step.name not in allowed):
            left.append(step)
            continue
        if step.act is Act.REMOVE_FLOW:
            remove(settings, admin, step.name, decided[step.name])
        else:
            _do(settings, admin, step)
        done.append(step)
        if told is not None:
            told(step)
    refused = [step for step in plan.steps if step.by_others and step.refused]
    others = [step for step in plan.steps if step.by_others and not step.refused]
    lock = any(step.act in (Act.WRITE_LOCK, Act.SET_LEVEL) for step in plan.steps)
    if lock:
        write_lock(settings, admin)
    return Outcome(tuple(done), tuple([*left, *refused]), tuple(others), lock)


def _do(settings: Settings, admin: RegistryAdmin, step: Step) -> None:
    wanted = {name: str(value) for name, value in step.wanted.items()}
    if step.act is Act.CREATE_TOPIC:
        partitions, copies = int(wanted.pop("partitions")), int(wanted.pop("replication"))
        kafka = settings.kafka.model_copy(update={"replication": copies})
        ensure_topics(kafka, [TopicSpec(step.name, partitions, wanted)])
    elif step.act is Act.CONFIGURE_TOPIC:
        configure(settings.kafka, step.name, wanted)
    else:
        admin.configure(step.name, {"compatibilityLevel": wanted["level"]})


def write_lock(settings: Settings, admin: RegistryAdmin) -> None:
    """Write `schemas.lock` beside `instep.toml`.

    Raises:
        ConfigError: it cannot be written.
        RegistryError, ConnectionError, TimeoutError: the registry refuses, or does not answer.
    """
    write(settings.root / LOCK, locked(admin, wishes(settings).subjects()).text())
