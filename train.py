"""Trains a fusion network: `python train.py --config=configs/mgdn.py:mff --workdir=runs/mff`.

`mgdn train` is the same command; `python train.py --help` says what it takes.
"""

import sys

from mgdn_jax.cli.train import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
