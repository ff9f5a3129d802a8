"""Training of MGDN: task loss plus masked mutual information between the filtered branches.

The authors released no training code; the weights of the terms are this project's.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mgdn_jax import losses
from mgdn_jax.errors import InputError
from mgdn_jax.layers import functional
from mgdn_jax.quantities.depth import rgb_picture
from mgdn_jax.quantities.radiance import mu_law
from mgdn_jax.systems import registry
from mgdn_jax.systems.base import BaseRecipe
from mgdn_jax.systems.contract import Batch, Metrics, Networks
from mgdn_jax.systems.mgdn.losses import masked_nmi


@dataclasses.dataclass(frozen=True)
class Settings:
    """The `recipe` block: weights of the terms.

    Attributes:
        supervised: whether batches carry ``target``.
        space: where target and result are compared: ``"plain"``, or ``"mu"`` for radiance, which
            the mu-law compresses first (`quantities.radiance`).
        l1: weight of the L1 distance to the target.
        mse: weight of the mean squared distance to the target; where nearly all of the result is
            the input already, L1 hardly moves what is not.
        light: weight of the mean squared distance of radiance itself (space ``"mu"``), in which
            errors of bright parts count that the mu-law hides.
        edges: weight of the L1 distance of differences between neighbouring pixels, to the target.
        ssim: weight of 1 - SSIM (to the target; unsupervised: mean over the sources).
        gradient: weight of the gradient-max term over all sources.
        intensity: weight of the distance to the maximum or mean of all sources.
        intensity_rule: ``"max"`` or ``"mean"``.
        focus: weight of the direct supervision of the blend weights (blend head with target): the
            squared error of each source to the target, weighted by the blend, relative to the
            example's mean. It rewards choosing the better source where L1 alone is flat.
        mef: weight of 1 - MEF-SSIM to all the sources, exposures of one scene.
        nmi: lambda of the masked mutual information.
    """

    supervised: bool = True
    space: str = "plain"
    l1: float = 1.0
    mse: float = 0.0
    light: float = 0.0
    edges: float = 0.0
    ssim: float = 0.0
    gradient: float = 0.0
    intensity: float = 0.0
    intensity_rule: str = "max"
    focus: float = 0.0
    mef: float = 0.0
    nmi: float = 0.1

    def __post_init__(self):
        if not self.supervised and (self.l1 or self.mse or self.light or self.edges):
            raise InputError(
                "recipe.l1, recipe.mse, recipe.light and recipe.edges need a target: set them to 0"
                " where recipe.supervised is off"
            )
        if self.space not in ("plain", "mu"):
            raise InputError(f"recipe.space is 'plain' or 'mu', not {self.space!r}")
        if self.light and self.space != "mu":
            raise InputError("recipe.light is for recipe.space='mu'; use recipe.mse")
        if self.intensity_rule not in ("max", "mean"):
            raise InputError(
                f"recipe.intensity_rule is 'max' or 'mean', not {self.intensity_rule!r}"
            )
        terms = ("l1", "mse", "light", "edges", "ssim", "gradient", "intensity", "focus", "mef")
        if not any(getattr(self, name) for name in terms):
            raise InputError(f"recipe: give at least one of {', '.join(terms)}")


class Recipe(BaseRecipe):
    """One network, one phase.

    ``loss = l1 |f - t| + mse |f - t|^2 + light |f - t|^2 + edges |df - dt| + ssim (1 - SSIM)
    + gradient |grad f - max| + intensity |f - rule| + nmi``, each term weighted, per example, then
    averaged; only ``light`` compares before the mu-law. Terms that need a target use it; without
    one (``supervised=False``) only gradient, intensity, SSIM and MEF-SSIM to the sources remain.
    """

    system = "mgdn"
    settings_type = Settings
    settings: Settings

    def __init__(self, model: Mapping[str, Any] | None = None, **settings: Any):
        super().__init__(model, **settings)
        is_supervised = self.settings.supervised
        if self.settings.focus and (self.model_config.head != "blend" or not is_supervised):
            raise InputError("recipe.focus needs model.head='blend' and recipe.supervised=True")
        if is_supervised and self.model_config.in_channels == (3, 1):
            self.best = "rmse"
        if self.settings.space == "mu":
            self.best = "psnr_mu"
        elif self.settings.mef:
            self.best = "mef_ssim"

    def sources(self, batch: Batch) -> list[Any]:
        """Input images of a batch; a set takes all there are."""
        if not self.model_config.sets:
            return super().sources(batch)
        return [batch[name] for name in "abcdefgh" if name in batch]

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
            target, result = self._compared(batch["target"]), self._compared(fused)
            terms["l1"] = losses.l1(result, target)
            if settings.mse:
                terms["mse"] = losses.mse(result, target)
            if settings.light:
                terms["light"] = losses.mse(fused, batch["target"])
            if settings.edges:
                terms["edges"] = losses.edges(result, target)
            if settings.ssim:
                terms["ssim"] = losses.ssim_loss(result, target)
            if settings.focus:
                terms["focus"] = _focus(aux["weights"], images, target)
        elif settings.ssim:
            parts = [losses.ssim_loss(fused, image) for image in images]
            terms["ssim"] = sum(parts[1:], parts[0]) / len(parts)
        if settings.mef:
            terms["mef"] = 1 - losses.mef_ssim(fused, images, scales=3)
        if settings.gradient:
            terms["gradient"] = losses.gradient_max(fused, *images)
        if settings.intensity:
            terms["intensity"] = losses.intensity(fused, *images, rule=settings.intensity_rule)
        if settings.nmi:
            masks = [self._compared(batch["target"])] if settings.supervised else images
            masks = [losses.blockwise_mean(mask, self.model_config.patch) for mask in masks]
            reference = 1 if self.model_config.guidance == "reference" else None
            branches = [stage["filtered"] for stage in aux["stages"]]
            branches = [[f.astype(jnp.float32) for f in stage] for stage in branches]
            terms["nmi"] = masked_nmi(branches, masks, reference=reference)
        total = sum(getattr(settings, name) * jnp.mean(value) for name, value in terms.items())
        metrics = {name: jnp.mean(value) for name, value in terms.items()}
        return jnp.asarray(total), ({"fusion": new_stats}, metrics)

    def judge(
        self, params: Networks, stats: Networks, batch: Batch
    ) -> tuple[Metrics, Sequence[jax.Array]]:
        """Figures of the task.

        Of radiance PSNR and SSIM after the mu-law; of exposures MEF-SSIM; of depth RMSE, which is
        in the unit of the files where the batch has its ``span``, else a part of the range.
        """
        if not self.best or not (self.settings.supervised or self.settings.mef):
            return {}, []
        images = self.sources(batch)
        fused = jnp.clip(self.fuse(params, stats, *images), 0, 1)
        if self.best == "mef_ssim":
            return {self.best: jnp.mean(losses.mef_ssim(fused, images, scales=3))}, []
        target = batch["target"]
        error = jnp.mean(jnp.square(fused - target), (1, 2, 3))
        if self.best == "rmse":
            span = batch["span"] if "span" in batch else jnp.ones_like(error)
            return {"rmse": jnp.mean(jnp.sqrt(error) * span)}, []
        compressed, truth = self._compared(fused), self._compared(target)
        figures = {
            "psnr_mu": _decibels(jnp.mean(jnp.square(compressed - truth), (1, 2, 3))),
            "psnr_l": _decibels(error),
            "ssim_mu": 1 - losses.ssim_loss(compressed, truth),
        }
        return {name: jnp.mean(value) for name, value in figures.items()}, []

    def display(self, batch: Batch, pictures: Sequence[Any]) -> list[Any]:
        """Sources, results and target as people look at them: exposures, photographs, tones."""
        sources = self.sources(batch)
        if self.settings.space == "mu":
            exposures = [source[..., :3] for source in sources]
            return [*exposures, *map(mu_law, [*pictures, batch["target"]])]
        if self.model_config.in_channels == (3, 1):
            sources[0] = rgb_picture(sources[0])
        return [*sources, *pictures, *([batch["target"]] if "target" in batch else [])]

    def _compared(self, image: jax.Array) -> jax.Array:
        return mu_law(image) if self.settings.space == "mu" else image


def _decibels(error: jax.Array) -> jax.Array:
    """PSNR of mean squared errors, for a peak of 1."""
    return -10 * jnp.log10(jnp.maximum(error, 1e-10))


def _focus(weights: jax.Array, images: list[jax.Array], target: jax.Array) -> jax.Array:
    """Blend-weighted squared error of the sources, relative to that of an even mix: (B,)."""
    errors = jnp.stack([jnp.mean(jnp.square(image - target), -1) for image in images], -1)
    chosen = jnp.mean(jnp.sum(weights * errors, -1), (1, 2))
    even = jnp.mean(errors, (1, 2, 3))
    return chosen / (even + 1e-6)
