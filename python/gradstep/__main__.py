"""`python -m gradstep` is the `gradstep` command."""

import sys

from gradstep.train.cli import main

if __name__ == "__main__":
    sys.exit(main())
