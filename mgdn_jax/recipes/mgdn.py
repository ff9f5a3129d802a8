"""Training of MGDN: task loss plus masked mutual information between the filtered branches.

The authors released no training code; the weights of the terms are this project's.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from mgdn_jax import losses, models
from mgdn_jax.errors import InputError
from mgdn_jax.layers import functional
from mgdn_jax.layers.functional import Flat
from mgdn_jax.recipes import Phase


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One network, one phase.

    ``loss = l1 |f - t| + ssim (1 - SSIM) + gradient |grad f - max| + intensity |f - rule| + nmi``,
    each term weighted, per example, then averaged. Terms that need a target use it; without one
    (``supervised=False``) only gradient, intensity and SSIM to the sources remain.

    Attributes:
        model: fields of `mgdn_jax.models.mgdn.Config`, or {"preset": name, field: value, ...}.
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

    model: dict[str, Any]
    supervised: bool = True
    l1: float = 1.0
    ssim: float = 0.0
    gradient: float = 0.0
    intensity: float = 0.0
    intensity_rule: str = "max"
    focus: float = 0.0
    nmi: float = 0.1
    model_config: Any = dataclasses.field(init=False)
    _graphdef: Any = dataclasses.field(init=False, repr=False)

    system = "mgdn"
    networks = ("fusion",)
    ships = "fusion"
    phases = (Phase("fusion", ("fusion",)),)

    def __post_init__(self):
        object.__setattr__(self, "model_config", self._read_model())
        if not self.supervised and self.l1:
            raise InputError("recipe.l1 needs a target: set it to 0 where recipe.supervised is off")
        if self.focus and (self.model_config.head != "blend" or not self.supervised):
            raise InputError("recipe.focus needs model.head='blend' and recipe.supervised=True")
        if self.intensity_rule not in ("max", "mean"):
            raise InputError(
                f"recipe.intensity_rule is 'max' or 'mean', not {self.intensity_rule!r}"
            )
        if not any((self.l1, self.ssim, self.gradient, self.intensity, self.focus)):
            raise InputError("recipe: give at least one of l1, ssim, gradient, intensity, focus")
        graphdef = models.abstract(self.system, self.model_config)[0]
        object.__setattr__(self, "_graphdef", graphdef)

    def _read_model(self) -> Any:
        fields = dict(self.model)
        return models.preset(self.system, fields.pop("preset", "mff"), **fields)

    def init(self, key: jax.Array) -> tuple[dict[str, Flat], dict[str, Flat]]:
        """Fresh ``(params, stats)`` by network name."""
        _, params, stats = models.initialise(self.system, self.model_config, key)
        return {"fusion": params}, {"fusion": stats}

    def sources(self, batch: dict[str, jax.Array]) -> list[jax.Array]:
        """Input images of a batch in the network's order."""
        return [batch[name] for name in ("a", "b", "c")[: self.model_config.inputs]]

    def loss(
        self,
        params: dict[str, Flat],
        stats: dict[str, Flat],
        batch: dict[str, jax.Array],
        keys: jax.Array | None,
        phase: str = "fusion",
    ) -> tuple[jax.Array, tuple[dict[str, Flat], dict[str, jax.Array]]]:
        """Mean loss of a batch, new statistics and the mean of every term.

        Args:
            params: flat parameters by network.
            stats: running statistics by network.
            batch: ``a``, ``b`` (and ``target`` where supervised), (B, h, w, c) in [0, 1].
            keys: (B,) PRNG keys, one an example; None for evaluation.
            phase: MGDN has one phase.
        """
        del phase
        images = self.sources(batch)
        if self.supervised and "target" not in batch:
            raise InputError(
                "the data set has no target: set recipe.supervised=False, recipe.l1=0,"
                " recipe.focus=0 and weights for recipe.gradient, recipe.intensity or recipe.ssim"
            )
        (fused, aux), new_stats = functional.apply(
            self._graphdef, params["fusion"], stats["fusion"], *images, keys=keys
        )
        terms: dict[str, jax.Array] = {}
        if self.supervised:
            target = batch["target"]
            terms["l1"] = losses.l1(fused, target)
            if self.ssim:
                terms["ssim"] = losses.ssim_loss(fused, target)
            if self.focus:
                terms["focus"] = _focus(aux["weights"], images, target)
        elif self.ssim:
            parts = [losses.ssim_loss(fused, image) for image in images]
            terms["ssim"] = sum(parts[1:], parts[0]) / len(parts)
        if self.gradient:
            terms["gradient"] = losses.gradient_max(fused, images[0], images[1])
        if self.intensity:
            terms["intensity"] = losses.intensity(
                fused, images[0], images[1], rule=self.intensity_rule
            )
        if self.nmi:
            masks = [batch["target"]] if self.supervised else images
            reference = 1 if self.model_config.guidance == "reference" else None
            branches = [stage["filtered"] for stage in aux["stages"]]
            branches = [[f.astype(jnp.float32) for f in stage] for stage in branches]
            terms["nmi"] = losses.masked_nmi(branches, masks, reference=reference)
        total = sum(getattr(self, name) * jnp.mean(value) for name, value in terms.items())
        metrics = {name: jnp.mean(value) for name, value in terms.items()}
        return jnp.asarray(total), ({"fusion": new_stats}, metrics)

    def fuse(
        self, params: dict[str, Flat], stats: dict[str, Flat], *images: jax.Array
    ) -> jax.Array:
        """Fused images of the shipped network, as it is used after training."""
        return functional.apply(self._graphdef, params["fusion"], stats["fusion"], *images)[0][0]


def _focus(weights: jax.Array, images: list[jax.Array], target: jax.Array) -> jax.Array:
    """Blend-weighted squared error of the sources, relative to that of an even mix: (B,)."""
    errors = jnp.stack([jnp.mean(jnp.square(image - target), -1) for image in images], -1)
    chosen = jnp.mean(jnp.sum(weights * errors, -1), (1, 2))
    even = jnp.mean(errors, (1, 2, 3))
    return chosen / (even + 1e-6)
