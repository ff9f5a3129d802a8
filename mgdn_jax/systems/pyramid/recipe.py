"""Training of Pyramid: it starts as a rule, and learns what the figures of the field reward.

Nine terms; the first five are those figures themselves (`losses`), the others hold the result to
what people expect of a fused picture: tones between the sources' maximum and their sum, slopes of
the stronger source, values that a screen can show.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from mgdn_jax import losses
from mgdn_jax.errors import InputError
from mgdn_jax.layers import functional
from mgdn_jax.systems import registry
from mgdn_jax.systems.base import BaseRecipe
from mgdn_jax.systems.contract import Batch, Metrics, Networks
from mgdn_jax.systems.pyramid.losses import (
    deviation,
    differences,
    edge_transfer,
    fidelity,
    information,
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The `recipe` block: weights of the terms, 0 for none.

    Attributes:
        edges: weight of 1 - Qabf.
        fidelity: weight of 2 - VIF.
        ssim: weight of 2 - SSIM to each source.
        differences: weight of 2 - SCD.
        information: weight of 2 - MI.
        contrast: weight of the part by which the standard deviation of the result falls short of
            `stretch` times that of the tones it shall have.
        stretch: see `contrast`.
        tone: weight of the L1 distance of means over 8x8 pixels to those of
            `losses.intensity_target`.
        tone_rule: of `losses.INTENSITY_RULES`.
        tone_share: how far from the maximum to what that rule says, in [0, 1].
        gradient: weight of `losses.gradient_signed_max`, a tenth of it.
        sharpness: by how much the slopes of the sources are raised for it.
        range: weight of the mean squared excess over [0, 1].
    """

    edges: float = 1.0
    fidelity: float = 0.3
    ssim: float = 0.6
    differences: float = 0.8
    information: float = 0.2
    contrast: float = 1.0
    stretch: float = 1.1
    tone: float = 2.0
    tone_rule: str = "screen"
    tone_share: float = 0.5
    gradient: float = 1.0
    sharpness: float = 1.25
    range: float = 10.0

    def __post_init__(self):
        weights = (
            *("edges", "fidelity", "ssim", "differences", "information"),
            *("contrast", "tone", "gradient"),
        )
        for name in (*weights, "range", "stretch", "sharpness"):
            if getattr(self, name) < 0:
                raise InputError(f"recipe.{name} is {getattr(self, name)} and must be 0 or more")
        if not any(getattr(self, name) for name in weights):
            raise InputError(f"recipe has no loss: set one of {', '.join(weights)} above 0")
        if self.tone_rule not in losses.INTENSITY_RULES:
            known = ", ".join(losses.INTENSITY_RULES)
            raise InputError(f"recipe.tone_rule is {self.tone_rule!r}; it is one of {known}")
        if not 0 <= self.tone_share <= 1:
            raise InputError(f"recipe.tone_share is {self.tone_share} and must be in [0, 1]")


class Recipe(BaseRecipe):
    """One network, one phase."""

    system = "pyramid"
    settings_type = Settings
    settings: Settings

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
        """Mean loss of a batch and the mean of every term; there are no statistics.

        Args:
            params: flat parameters by network.
            stats: running statistics by network, none.
            batch: ``a`` and ``b``, (B, h, w, 1) in [0, 1], sides of 41 or more.
            keys: not used.
            phase: there is one.
            axis_name: not used.

        Raises:
            InputError: images are not luminance.
        """
        del keys, phase, axis_name
        settings = self.settings
        a, b = self.luminance_sources(batch)
        graphdef = registry.graphdef(self.system, self.model_config)
        (fused, _), _ = functional.apply(graphdef, params["fusion"], stats["fusion"], a, b)
        target = losses.intensity_target(a, b, settings.tone_rule, settings.tone_share)
        sharper = (settings.sharpness * x for x in (a, b))
        wanted = settings.stretch * deviation(target)
        terms = {
            "edges": 1 - edge_transfer(fused, a, b),
            "fidelity": 2 - fidelity(fused, a, b),
            "ssim": 2 - losses.ssim(fused, a) - losses.ssim(fused, b),
            "differences": 2 - differences(fused, a, b),
            "information": 2 - information(fused, a, b),
            "contrast": jax.nn.relu(wanted - deviation(fused)) / (wanted + 0.02),
            "tone": losses.l1(*(losses.blockwise_mean(x, 8) for x in (fused, target))),
            "gradient": 0.1 * losses.gradient_signed_max(fused, *sharper),
            "range": jnp.mean(jnp.square(fused - jnp.clip(fused, 0, 1)), (1, 2, 3)),
        }
        metrics = {name: jnp.mean(value) for name, value in terms.items()}
        total = sum(getattr(settings, name) * value for name, value in metrics.items())
        return jnp.asarray(total), (stats, metrics)

    def judge(
        self, params: Networks, stats: Networks, batch: Batch
    ) -> tuple[Metrics, Sequence[jax.Array]]:
        """Qabf, VIF, SSIM (the sum over the sources), SCD, MI, and the deviation, of 255."""
        a, b = self.sources(batch)
        fused = jnp.clip(self.fuse(params, stats, a, b), 0, 1)
        figures = {
            "qabf": edge_transfer(fused, a, b),
            "vif": fidelity(fused, a, b),
            "ssim": losses.ssim(fused, a) + losses.ssim(fused, b),
            "scd": differences(fused, a, b),
            "mi": information(fused, a, b),
            "sd": 255 * deviation(fused),
        }
        return {name: jnp.mean(value) for name, value in figures.items()}, []
