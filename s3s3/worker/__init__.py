"""Consume the queue: retry policy, circuit breakers, rate limits."""
