"""Replay: deliver a stretch of the past again, beside the live flow."""

from instep_streams.replay.plan import ReplayPlan
from instep_streams.replay.run import plan, run

__all__ = ["ReplayPlan", "plan", "run"]
