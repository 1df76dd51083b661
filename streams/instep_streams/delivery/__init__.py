"""Delivery: flow topics into targets, one outcome per document version."""
