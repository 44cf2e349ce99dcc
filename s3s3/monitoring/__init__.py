"""Logs, metrics, health checks, heartbeats and the status page."""
