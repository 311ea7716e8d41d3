"""Schedules: cron, interval and date rules of plugins, their due times in the store, their firings in the log."""
