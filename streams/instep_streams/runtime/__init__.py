"""Faust on librdkafka: transport, chunk loop, flow agent."""
