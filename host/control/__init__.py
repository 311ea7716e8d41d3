"""Desired state and what makes it real: the registry, the reconciler, and the life of each plugin.

The API, the command line and drop-in files only ever change the registry; the reconciler alone starts and
stops plugins.
"""
