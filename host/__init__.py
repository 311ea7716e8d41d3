"""The host daemon: routes events and schedules to signed plugins and keeps each behind its own breaker."""
