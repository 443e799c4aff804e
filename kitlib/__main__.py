"""`python -m kitlib` is the command `kitlib`."""
import sys

from kitlib.cli import main

if __name__ == "__main__":
    sys.exit(main())
