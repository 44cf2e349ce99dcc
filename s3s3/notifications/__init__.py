"""Notification sources: each acknowledges a notification only once its job is queued."""
