"""Compare whole buckets and repair them."""
