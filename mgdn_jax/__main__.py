"""`python -m mgdn_jax` is the command `mgdn`."""

import sys

from mgdn_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
