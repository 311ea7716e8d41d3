"""The log's writer: what goes into the log as values, the core that executes them, and the process it lives in.

The core's half (`frames`, `appending`, `settling`, `firings`, `shares`, `core`, `serving`, `process`) imports nothing
of the host but `host.storage.errors` and its like: a process is started with it, small and quickly there.
"""
