"""Isolation, with a user of its own for each plugin where the host is root and may arrange that, as it should be."""

from footing import usual

from tests.e2e.isolation_cases import *  # noqa: F403 - the cases are the same on every footing

FOOTING = usual()
