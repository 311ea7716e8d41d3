"""What administrators do: install, upgrade, configure, grant, decide on dead letters, replay, and files dropped in.

Each act is a change of the registry, or of the log, and its entry in the audit trail; what runs follows by itself.
"""
