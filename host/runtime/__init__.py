"""Where a plugin's code runs: in the host (`inline`) or in a worker of its own (`process`), behind one interface.

The supervisor starts runtimes, watches them, and starts them again; it decides nothing about events.
"""
