"""`python -m s3s3` is `s3s3`."""

import sys

from .scripts.main import main

if __name__ == "__main__":
    sys.exit(main())
