"""Isolation where the host is nobody special, and its plugins are the same user as it."""

from footing import Footing

from tests.e2e.isolation_cases import *  # noqa: F403 - the cases are the same on every footing

FOOTING = Footing.UNPRIVILEGED
