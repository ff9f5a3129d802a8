"""Image fusion in JAX and Flax: train, evaluate, convert and run.

>>> import mgdn_jax
>>> fuse = mgdn_jax.load("mgdn-mff")            # doctest: +SKIP
>>> fused = fuse("near.jpg", "far.jpg")         # doctest: +SKIP

Importing this package imports nothing heavy; the names below are looked up on first use.
"""

from typing import TYPE_CHECKING

from mgdn_jax import lazy, moved

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mgdn_jax import bilevel, data, evaluation, metrics, training
    from mgdn_jax.errors import InputError
    from mgdn_jax.evaluation.methods import evaluate_pairs as evaluate
    from mgdn_jax.fusing.deghosting import Deghoster, merge_exposures
    from mgdn_jax.fusing.depth import DepthUpsampler, upsample_depth
    from mgdn_jax.fusing.folders import fuse_folders
    from mgdn_jax.fusing.fuser import Fuser
    from mgdn_jax.fusing.loading import load
    from mgdn_jax.fusing.videos import fuse_video
    from mgdn_jax.serving.export import export
    from mgdn_jax.systems.finding import list_systems
    from mgdn_jax.systems.registry import create, list_presets
    from mgdn_jax.weights.conversion import convert
    from mgdn_jax.weights.zoo import list_models

_HOMES = {
    "": ("bilevel", "data", "evaluation", "metrics", "training"),
    "errors": ("InputError",),
    "evaluation.methods": ("evaluate=evaluate_pairs",),
    "fusing.deghosting": ("Deghoster", "merge_exposures"),
    "fusing.depth": ("DepthUpsampler", "upsample_depth"),
    "fusing.folders": ("fuse_folders",),
    "fusing.fuser": ("Fuser",),
    "fusing.loading": ("load",),
    "fusing.videos": ("fuse_video",),
    "serving.export": ("export",),
    "systems.finding": ("list_systems",),
    "systems.registry": ("create", "list_presets"),
    "weights.conversion": ("convert",),
    "weights.zoo": ("list_models",),
}
__all__ = [
    "Deghoster",
    "DepthUpsampler",
    "Fuser",
    "InputError",
    "bilevel",
    "convert",
    "create",
    "data",
    "evaluate",
    "evaluation",
    "export",
    "fuse_folders",
    "fuse_video",
    "list_models",
    "list_presets",
    "list_systems",
    "load",
    "merge_exposures",
    "metrics",
    "training",
    "upsample_depth",
]
__getattr__, __dir__, _ = lazy.attach(__name__, _HOMES)
moved.install()
