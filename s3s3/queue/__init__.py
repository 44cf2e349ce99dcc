"""The durable job queue on Redis Streams, and the Redis connection."""
