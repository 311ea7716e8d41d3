"""A module that nothing imports before a mode does."""

SAID = "imported"
