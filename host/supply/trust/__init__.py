"""Whom a host believes, and for what: publishers and their keys, signatures over releases, and the verdict on each."""
