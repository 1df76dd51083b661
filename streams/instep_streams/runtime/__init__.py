"""Faust on librdkafka: transport, chunk loop, flow agent."""

from instep_streams.runtime.app import DeadLetter, FlowApp, Outputs, Work, flow_agent, flow_app, run_app
from instep_streams.runtime.batch import Batch

__all__ = ["Batch", "DeadLetter", "FlowApp", "Outputs", "Work", "flow_agent", "flow_app", "run_app"]
