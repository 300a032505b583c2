"""`python -m fulgurite` does what the console script `fulgurite` does."""

import sys

from fulgurite.cli import main

if __name__ == "__main__":
    sys.exit(main())
