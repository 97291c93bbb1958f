"""`python -m sigmoidcore`: the command `sigmoid-core`."""

import sys

from sigmoidcore.cli import main

if __name__ == "__main__":
    sys.exit(main())
