"""The path of an event inside the host: log, filters, subscriptions and consumers, guard, retries, dead letters."""
