"""The ways in for outside services: inbound webhooks, verified, then appended to the log before they are answered."""
