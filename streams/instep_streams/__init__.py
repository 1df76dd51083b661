"""The running pipelines: capture, flows, delivery, replay."""
