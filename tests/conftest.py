"""Real parts for every test: each fixture plug-in lives in tests/fixtures and is loaded here."""

from hypothesis import settings

pytest_plugins = [
    "tests.fixtures.postgres",
    "tests.fixtures.kafka",
    "tests.fixtures.registry",
    "tests.fixtures.tryton",
]

# How long one example takes says more about the machine's neighbours than about the code.
settings.register_profile("instep", deadline=None)
settings.load_profile("instep")
