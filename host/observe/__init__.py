"""What the host shows of itself: logs, metrics, health and the audit trail."""
