"""What s3s3 shows over HTTP."""
