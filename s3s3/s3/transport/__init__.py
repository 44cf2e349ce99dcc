"""A small HTTP/1.1 client that knows what was sent."""
