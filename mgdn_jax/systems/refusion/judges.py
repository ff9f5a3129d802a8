"""What a learned loss is judged by: ReFusion's outer losses, and how one of yours is named."""

from typing import Any, Protocol, runtime_checkable

import jax
from jaxtyping import Array, Float

from mgdn_jax import losses
from mgdn_jax.errors import InputError
from mgdn_jax.layers import functional
from mgdn_jax.layers.functional import Flat
from mgdn_jax.systems import registry
from mgdn_jax.systems.contract import Batch
from mgdn_jax.systems.refusion.losses import (
    reconstruction_max,
    reconstruction_max_gradient,
    reconstruction_mse,
)

OUTERS = ("reconstruction", "mse", "supervised_l1")
_NETWORK = "ReconstructionNetwork"


@runtime_checkable
class FittedLoss(Protocol):
    """An outer loss with a network of its own, which is trained on the same loss."""

    def init(self, key: jax.Array) -> Flat:
        """Fresh parameters psi."""

    def __call__(self, psi: Flat, fused: Array, batch: Batch) -> Array:
        """Losses of the examples, (B,), or their mean."""


class Reconstruction:
    """Outer loss: how well R rebuilds both sources from the fused image.

    Args:
        config: `mgdn_jax.systems.refusion.network.Config` of R.
        coefficients: of intensities and Sobel strengths; None for plain squared errors.
    """

    def __init__(self, config: Any, coefficients: tuple[float, float] | None):
        self.config, self.coefficients = config, coefficients
        self._graphdef = registry.graphdef("refusion", config, _NETWORK)

    def init(self, key: jax.Array) -> Flat:
        """Fresh parameters of R."""
        return registry.initialise("refusion", self.config, key, _NETWORK)[1]

    def __call__(self, psi: Flat, fused: Array, batch: Batch) -> Float[Array, " b"]:
        """Loss of every example."""
        rebuilt = functional.apply(self._graphdef, psi, {}, fused)[0]
        images = *rebuilt, batch["a"], batch["b"]
        if self.coefficients is None:
            return reconstruction_mse(*images)
        intensities, strengths = self.coefficients
        value = intensities * reconstruction_max(*images)
        return value + strengths * reconstruction_max_gradient(*images)


def supervised_l1(psi: Any, fused: Array, batch: Batch) -> Float[Array, " b"]:
    """Outer loss: distance of the fused image to the target; has no network of its own."""
    del psi
    if "target" not in batch:
        raise InputError("recipe.outer='supervised_l1' needs a data set with targets")
    return losses.l1(fused, batch["target"])


def read_outer(name: str, config: Any, coefficients: tuple[float, float]) -> tuple[Any, str]:
    """The outer loss of a name, and the name of the network that it fits, "" for none.

    Args:
        name: one of `OUTERS`, or the dotted path of a callable ``(psi, fused, batch) -> losses``;
            one that is a `FittedLoss` brings the network ``task``; a class is instantiated.
        config: `Config` of R.
        coefficients: of intensities and Sobel strengths in ``"reconstruction"``.

    Raises:
        InputError: there is no such thing, or it cannot be called.
    """
    if name == "supervised_l1":
        return supervised_l1, ""
    if name in OUTERS:
        weights = coefficients if name == "reconstruction" else None
        return Reconstruction(config, weights), "reconstruction"
    outer = registry.named(name, "recipe.outer", OUTERS)
    outer = outer() if isinstance(outer, type) else outer
    if not callable(outer):
        raise InputError(f"recipe.outer: {name!r} cannot be called")
    return outer, "task" if isinstance(outer, FittedLoss) else ""
