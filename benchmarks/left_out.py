"""`refusion-ivf` trained further on all cameras but one; see docs/benchmarks/cameras.md.

    python train.py --config=benchmarks/left_out.py:msrs --workdir=runs/no-msrs

A fifth of the steps of `ivf_cameras` of configs/refusion.py: 0.17 to 0.25 hours of two CPU cores
that did other work as well.
"""

import pathlib
import sys

import ml_collections

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent))


def get_config(camera: str = "msrs") -> ml_collections.ConfigDict:
    """The config without a camera, one of the sets of `ivf_cameras`."""
    from configs import refusion

    config = refusion.get_config("ivf_cameras")
    if camera not in config.data.mix:
        raise ValueError(f"there is no camera {camera!r}; choose from {', '.join(config.data.mix)}")
    del config.data.mix[camera]
    config.data.train.jitter.update(clip=0.2, exposure=1.5)
    config.data.validation.limit = 4
    config.train.update({"steps": 600, "ema": 0.99, "eval_every": 600, "save_every": 200})
    return config
