"""A small HTTP/1.1 client that never repeats a request and knows how much of it was sent."""
