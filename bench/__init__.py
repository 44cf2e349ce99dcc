"""s3s3 beside what one would otherwise run: the same objects, the same servers, the same run."""
