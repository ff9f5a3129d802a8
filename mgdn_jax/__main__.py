"""`python -m mgdn_jax` is the command `mgdn`."""

import sys

from mgdn_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
