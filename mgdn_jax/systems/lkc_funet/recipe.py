"""Training of LKC-FUNet (He et al., Pattern Recognition 2026): one network, one phase.

    L = intensity |f - max(a, b)| + gradient |M(f) - max(M(a), M(b))| + ssim (1 - mean SSIM)

with M the `losses.sobel_strength`, on values in [-1, 1] (the network's own range). SSIM may be that
of [0, 1] instead: its constants are for that range, and on [-1, 1], where means change sign at
medium grey, it favours the pixelwise maximum (docs/systems/lkc_funet.md has figures). Gradients may
be signed: each Sobel response after the larger one of the sources, in place of M, which slopes
turned round reach as well. Intensities may be those of the sum of the sources or of their screen,
or between those and the maximum, which has nothing of the darker source. Dropout, stochastic depth
and batch statistics are on while training.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mgdn_jax import losses
from mgdn_jax.errors import InputError
from mgdn_jax.layers import functional
from mgdn_jax.layers.mode import Mode
from mgdn_jax.systems import registry
from mgdn_jax.systems.base import BaseRecipe
from mgdn_jax.systems.contract import Batch, Metrics, Networks
from mgdn_jax.systems.lkc_funet.losses import ssim_both

SSIM_RANGES = ("network", "unit")
GRADIENT_RULES = ("strength", "signed")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The `recipe` block: three terms, all with coefficient 1 as released.

    Attributes:
        intensity: coefficient of the intensity term.
        intensity_rule: what it compares with, of `losses.INTENSITY_RULES`: ``"max"`` as released.
        intensity_share: how far from the maximum to what that rule says, in [0, 1].
        gradient: coefficient of the gradient term.
        gradient_rule: ``"strength"``, `losses.sobel_max` as released, or ``"signed"``,
            `losses.gradient_signed_max`.
        ssim: coefficient of the SSIM term.
        ssim_range: values that SSIM sees: ``"network"``, the network's own as released, or
            ``"unit"``, [0, 1].
    """

    intensity: float = 1.0
    intensity_rule: str = "max"
    intensity_share: float = 1.0
    gradient: float = 1.0
    gradient_rule: str = "strength"
    ssim: float = 1.0
    ssim_range: str = "network"

    def __post_init__(self):
        for name in ("intensity", "gradient", "ssim"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or value < 0:
                raise InputError(f"recipe.{name} is {value!r} and must be a number of 0 or more")
        share = self.intensity_share
        if not isinstance(share, int | float) or not 0 <= share <= 1:
            raise InputError(f"recipe.intensity_share is {share!r} and must be between 0 and 1")
        if not self.intensity + self.gradient + self.ssim:
            raise InputError("recipe has no loss: set intensity, gradient or ssim above 0")
        for name, known in (
            ("intensity_rule", losses.INTENSITY_RULES),
            ("gradient_rule", GRADIENT_RULES),
            ("ssim_range", SSIM_RANGES),
        ):
            value = getattr(self, name)
            if value not in known:
                raise InputError(f"recipe.{name} is {value!r}; it is one of {', '.join(known)}")


class Recipe(BaseRecipe):
    """One network under three losses.

    The first source is infrared (CT, PET, SPECT), the second visible (MRI), as everywhere here.
    """

    system = "lkc_funet"
    settings_type = Settings
    settings: Settings

    def __init__(self, model: Mapping[str, Any] | None = None, **settings: Any):
        super().__init__(model, **settings)
        if self.model_config.merged:
            raise InputError("model.merged is true: merged networks are for use, not for training")

    def loss(
        self,
        params: Networks,
        stats: Networks,
        batch: Batch,
        keys: jax.Array | None,
        phase: str = "fusion",
        *,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, tuple[Networks, Metrics]]:
        """Mean loss of a batch, the running statistics after it, and the three terms.

        Args:
            params: flat parameters by network.
            stats: flat running statistics by network.
            batch: ``a`` and ``b``, (B, h, w, 1) in [0, 1].
            keys: (B,) keys for what is dropped; None runs the network as it is used, and leaves
                the statistics alone.
            phase: the only one.
            axis_name: mapped axis whose devices share the batch.

        Raises:
            InputError: images are not luminance.
        """
        del phase
        settings = self.settings
        a, b = self.luminance_sources(batch)
        mode = Mode(training=keys is not None, keys=keys, axis_name=axis_name)
        graphdef = registry.graphdef(self.system, self.model_config)
        (unit, aux), new = functional.apply(
            graphdef, params["fusion"], stats["fusion"], a, b, mode=mode
        )
        own = aux["raw"], *(self.model_config.to_range(x) for x in (a, b))
        if (
            settings.gradient_rule == "signed"
        ):  # shifted, so that what surrounds the images is black
            black = self.model_config.to_range(jnp.zeros(()))
            gradient = losses.gradient_signed_max(*(x - black for x in own))
        else:
            gradient = losses.sobel_max(*own)
        target = losses.intensity_target(a, b, settings.intensity_rule, settings.intensity_share)
        terms = {
            "intensity": losses.l1(aux["raw"], self.model_config.to_range(target)),
            "gradient": gradient,
            "ssim": ssim_both(*(own if settings.ssim_range == "network" else (unit, a, b))),
        }
        terms = {name: jnp.mean(value) for name, value in terms.items()}
        total = sum(getattr(settings, name) * value for name, value in terms.items())
        return jnp.asarray(total), ({"fusion": new}, terms)

    def card(self) -> dict[str, Any]:
        """What the card of the shipped weights says about the loss they were trained with."""
        order = self.model_config.order
        return {
            "loss": dataclasses.asdict(self.settings),
            "inputs": "infrared, visible" if order == (1, 0) else "CT/PET/SPECT, MRI",
        }
