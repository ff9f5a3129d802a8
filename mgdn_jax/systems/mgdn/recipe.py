"""Training of MGDN: task loss plus masked mutual information between the filtered branches.

The authors released no training code; the weights of the terms are this project's.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mgdn_jax import losses
from mgdn_jax.errors import InputError
from mgdn_jax.layers import functional
from mgdn_jax.systems import registry
from mgdn_jax.systems.base import BaseRecipe
from mgdn_jax.systems.contract import Batch, Metrics, Networks
from mgdn_jax.systems.mgdn.losses import masked_nmi


@dataclasses.dataclass(frozen=True)
class Settings:
    """The `recipe` block: weights of the terms.

    Attributes:
        supervised: whether batches carry ``target``.
        l1: weight of the L1 distance to the target.
        ssim: weight of 1 - SSIM (to the target; unsupervised: mean over the sources).
        gradient: weight of the gradient-max term over the sources.
        intensity: weight of the distance to the maximum or mean of the sources.
        intensity_rule: ``"max"`` or ``"mean"``.
        focus: weight of the direct supervision of the blend weights (blend head with target): the
            squared error of each source to the target, weighted by the blend, relative to the
            example's mean. It rewards choosing the better source where L1 alone is flat.
        nmi: lambda of the masked mutual information.
    """

    supervised: bool = True
    l1: float = 1.0
    ssim: float = 0.0
    gradient: float = 0.0
    intensity: float = 0.0
    intensity_rule: str = "max"
    focus: float = 0.0
    nmi: float = 0.1

    def __post_init__(self):
        if not self.supervised and self.l1:
            raise InputError("recipe.l1 needs a target: set it to 0 where recipe.supervised is off")
        if self.intensity_rule not in ("max", "mean"):
            raise InputError(
                f"recipe.intensity_rule is 'max' or 'mean', not {self.intensity_rule!r}"
            )
        if not any((self.l1, self.ssim, self.gradient, self.intensity, self.focus)):
            raise InputError("recipe: give at least one of l1, ssim, gradient, intensity, focus")


class Recipe(BaseRecipe):
    """One network, one phase.

    ``loss = l1 |f - t| + ssim (1 - SSIM) + gradient |grad f - max| + intensity |f - rule| + nmi``,
    each term weighted, per example, then averaged. Terms that need a target use it; without one
    (``supervised=False``) only gradient, intensity and SSIM to the sources remain.
    """

    system = "mgdn"
    settings_type = Settings
    settings: Settings

    def __init__(self, model: Mapping[str, Any] | None = None, **settings: Any):
        super().__init__(model, **settings)
        is_supervised = self.settings.supervised
        if self.settings.focus and (self.model_config.head != "blend" or not is_supervised):
            raise InputError("recipe.focus needs model.head='blend' and recipe.supervised=True")

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
        """Mean loss of a batch, new statistics and the mean of every term.

        Args:
            params: flat parameters by network.
            stats: running statistics by network.
            batch: ``a``, ``b`` (and ``target`` where supervised), (B, h, w, c) in [0, 1].
            keys: (B,) PRNG keys, one an example; None for evaluation.
            phase: MGDN has one phase.
            axis_name: not used.
        """
        del phase, axis_name
        settings = self.settings
        images = self.sources(batch)
        if settings.supervised and "target" not in batch:
            raise InputError(
                "the data set has no target: set recipe.supervised=False, recipe.l1=0,"
                " recipe.focus=0 and weights for recipe.gradient, recipe.intensity or recipe.ssim"
            )
        graphdef = registry.graphdef(self.system, self.model_config)
        (fused, aux), new_stats = functional.apply(
            graphdef, params["fusion"], stats["fusion"], *images, keys=keys
        )
        terms: dict[str, jax.Array] = {}
        if settings.supervised:
            target = batch["target"]
            terms["l1"] = losses.l1(fused, target)
            if settings.ssim:
                terms["ssim"] = losses.ssim_loss(fused, target)
            if settings.focus:
                terms["focus"] = _focus(aux["weights"], images, target)
        elif settings.ssim:
            parts = [losses.ssim_loss(fused, image) for image in images]
            terms["ssim"] = sum(parts[1:], parts[0]) / len(parts)
        if settings.gradient:
            terms["gradient"] = losses.gradient_max(fused, images[0], images[1])
        if settings.intensity:
            terms["intensity"] = losses.intensity(
                fused, images[0], images[1], rule=settings.intensity_rule
            )
        if settings.nmi:
            masks = [batch["target"]] if settings.supervised else images
            reference = 1 if self.model_config.guidance == "reference" else None
            branches = [stage["filtered"] for stage in aux["stages"]]
            branches = [[f.astype(jnp.float32) for f in stage] for stage in branches]
            terms["nmi"] = masked_nmi(branches, masks, reference=reference)
        total = sum(getattr(settings, name) * jnp.mean(value) for name, value in terms.items())
        metrics = {name: jnp.mean(value) for name, value in terms.items()}
        return jnp.asarray(total), ({"fusion": new_stats}, metrics)


def _focus(weights: jax.Array, images: list[jax.Array], target: jax.Array) -> jax.Array:
    """Blend-weighted squared error of the sources, relative to that of an even mix: (B,)."""
    errors = jnp.stack([jnp.mean(jnp.square(image - target), -1) for image in images], -1)
    chosen = jnp.mean(jnp.sum(weights * errors, -1), (1, 2))
    even = jnp.mean(errors, (1, 2, 3))
    return chosen / (even + 1e-6)
