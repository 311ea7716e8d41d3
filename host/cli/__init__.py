"""The `busbar` command, one file for each noun. It changes a host only through that host's HTTP API."""
