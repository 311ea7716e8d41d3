"""Isolation where the host is root and its plugins are, too: what keeps them apart is no user id."""

from footing import Footing

from tests.e2e.isolation_cases import *  # noqa: F403 - the cases are the same on every footing

FOOTING = Footing.CLOSED
