"""Avro: shapes, evolution, encoders and decoders, the schema registry and its client."""
