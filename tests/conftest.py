"""Real parts for every test: each fixture plug-in lives in tests/fixtures and is loaded here."""

pytest_plugins = [
    "tests.fixtures.postgres",
    "tests.fixtures.kafka",
    "tests.fixtures.registry",
    "tests.fixtures.tryton",
]
