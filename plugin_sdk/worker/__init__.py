"""The half of the worker runtime that lives with the plugin: the wire, the worker's main loop, the fork server.

Nothing here knows the host; the host's half is in `host.runtime`.
"""
