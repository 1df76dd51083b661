"""Schemas and topics as code: look at them, change them by plan, and judge a migration before it runs.

`subjects` a registry's schemas; `topics`, `tail` Kafka's topics; `gate` what a migration would do, on a `scratch`
PostgreSQL; `desired`, `actual`, `plan` and `apply` the project's wishes and the cluster; `lock` is `schemas.lock`.
"""
