"""Training of CEN for fusion: each branch's picture and their mean under the same terms.

Two networks, by name: ``scales``, the scales of the norms that exchange, and ``weights``, all else.
An L1 penalty on each branch's half of the scales makes channels low. It is no part of what is
differentiated but a proximal step after the optimiser of ``scales`` (`proximal`), which is plain
gradient descent.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mgdn_jax import losses as shared
from mgdn_jax.errors import InputError
from mgdn_jax.layers import functional
from mgdn_jax.layers.channel_exchange import (
    ChannelExchange,
    layers_of_scales,
    penalised,
    sparsity,
)
from mgdn_jax.layers.functional import Flat
from mgdn_jax.layers.mode import Mode
from mgdn_jax.systems import registry
from mgdn_jax.systems.base import BaseRecipe
from mgdn_jax.systems.cen import losses
from mgdn_jax.systems.cen.network import BRANCHES, EXCHANGING
from mgdn_jax.systems.cen.proximal import soft_threshold
from mgdn_jax.systems.contract import Batch, Metrics, Networks, Phase

WEIGHTS, SCALES = "weights", "scales"
STEPS = ("proximal", "subgradient")

_TERMS = ("intensity", "gradient", "ssim")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The `recipe` block.

    Attributes:
        intensity: weight of the intensities.
        intensity_rule: of `losses.INTENSITY_RULES`.
        intensity_share: how far from the maximum to what that rule says, in [0, 1].
        gradient: weight of the slopes.
        ssim: weight of the structure.
        sparsity: weight of the L1 norm of each branch's half of the scales, lambda. Without
            exchange there is no penalty.
        sparsity_step: ``"proximal"``, a soft threshold after the optimiser, or ``"subgradient"``,
            as published: the penalty is in the loss, and goes through the optimiser.
    """

    intensity: float = 4.0
    intensity_rule: str = "max"
    intensity_share: float = 0.0
    gradient: float = 2.0
    ssim: float = 1.0
    sparsity: float = 3e-4
    sparsity_step: str = "proximal"

    def __post_init__(self):
        for name in (*_TERMS, "sparsity"):
            if not getattr(self, name) >= 0:
                raise InputError(f"recipe.{name} is {getattr(self, name)} and must be 0 or more")
        if not any(getattr(self, name) for name in _TERMS):
            raise InputError(f"recipe has no loss: set one of {', '.join(_TERMS)} above 0")
        if not 0 <= self.intensity_share <= 1:
            raise InputError(f"recipe.intensity_share is {self.intensity_share}; it is in [0, 1]")
        for name, known in (
            ("intensity_rule", shared.INTENSITY_RULES),
            ("sparsity_step", STEPS),
        ):
            if getattr(self, name) not in known:
                value = getattr(self, name)
                raise InputError(f"recipe.{name} is {value!r}; it is one of {', '.join(known)}")


class Recipe(BaseRecipe):
    """Two networks, one phase."""

    system = "cen"
    networks = (WEIGHTS, SCALES)
    phases = (Phase("fusion", (WEIGHTS, SCALES)),)
    settings_type = Settings
    settings: Settings

    def init(self, key: jax.Array) -> tuple[Networks, Networks]:
        """Fresh ``(params, stats)`` by network name; all scales are 1."""
        _, params, stats = registry.initialise(self.system, self.model_config, key)
        return self.part(params, stats)

    def join(self, params: Networks, stats: Networks) -> tuple[Flat, Flat]:
        """``(params, stats)`` of the network that ships."""
        return dict(sorted({**params[WEIGHTS], **params[SCALES]}.items())), stats[WEIGHTS]

    def part(self, params: Flat, stats: Flat) -> tuple[Networks, Networks]:
        """Inverse of `join`."""
        is_scale = re.compile(rf"{EXCHANGING}/norms/\d+/scale").fullmatch
        scales = {path: value for path, value in params.items() if is_scale(path)}
        rest = {path: value for path, value in params.items() if path not in scales}
        return {WEIGHTS: rest, SCALES: scales}, {WEIGHTS: stats, SCALES: {}}

    def proximal(
        self, network: str, rate: Callable[[Any], jax.Array]
    ) -> optax.GradientTransformation | None:
        """The soft threshold of the scales' penalty; None for other networks or without one."""
        settings = self.settings
        if network != SCALES or not self._penalty() or settings.sparsity_step != "proximal":
            return None
        _, shapes, _ = registry.abstract(self.system, self.model_config)
        weights = {
            path: np.float32(settings.sparsity) * penalised(path, leaf.shape[0], BRANCHES)
            for path, leaf in self.part(shapes, {})[0][SCALES].items()
        }
        return soft_threshold(rate, weights)

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
        """Mean loss of a batch: the sum over both branches' pictures and the fused one.

        Args:
            params: flat parameters by network.
            stats: running statistics by network.
            batch: ``a`` and ``b``, (B, h, w, 1) in [0, 1], sides of 11 or more.
            keys: not drawn from; None in validation, where the loss is that of the fused picture
                alone, so that it compares between networks.
            phase: there is one.
            axis_name: mapped axis whose devices share the batch.

        Returns:
            ``(loss, (stats, metrics))``. Metrics are the terms of the fused picture, its loss and
            those of the branches, the share of the first branch in the result, the penalised L1
            norm, and ``exchanging.0`` and ``exchanging.1``, the shares of channels that are
            replaced in each branch.

        Raises:
            InputError: images are not luminance.
        """
        del phase
        a, b = self.luminance_sources(batch)
        training = keys is not None
        mode = Mode(training=training, axis_name=axis_name)
        graphdef = registry.graphdef(self.system, self.model_config)
        joined = self.join(params, stats)
        (fused, aux), new = functional.apply(graphdef, *joined, a, b, mode=mode)
        totals, terms = self._totals([fused, *aux["outputs"]], a, b)
        layers = layers_of_scales(params[SCALES], EXCHANGING)
        penalty = sparsity(list(layers.values()))
        metrics = {
            **terms,
            "fused_loss": totals[0],
            **{f"branch.{m}": totals[m + 1] for m in range(BRANCHES)},
            "share.0": aux["shares"][0],
            "sparsity": penalty,
            **self._exchanging(layers),
        }
        if not training:
            return totals[0], (stats, metrics)
        total = jnp.sum(totals)
        if self._penalty() and self.settings.sparsity_step == "subgradient":
            total = total + self.settings.sparsity * penalty
        return total, ({WEIGHTS: new, SCALES: {}}, metrics)

    def judge(
        self, params: Networks, stats: Networks, batch: Batch
    ) -> tuple[Metrics, Sequence[jax.Array]]:
        """The shares of channels that are replaced; pictures of both branches."""
        graphdef = registry.graphdef(self.system, self.model_config)
        joined = self.join(params, stats)
        (_, aux), _ = functional.apply(graphdef, *joined, *self.sources(batch))
        figures = self._exchanging(layers_of_scales(params[SCALES], EXCHANGING))
        return figures, list(aux["outputs"])

    def card(self) -> dict[str, Any]:
        """What the card of the shipped weights says about roles and loss."""
        return {"inputs": "infrared, visible", "loss": dataclasses.asdict(self.settings)}

    def _penalty(self) -> bool:
        """Whether there is one."""
        return self.model_config.exchange and self.settings.sparsity > 0

    def _totals(
        self, pictures: Sequence[jax.Array], a: jax.Array, b: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """Weighted sums of the terms of each picture, and the terms of the first."""
        settings = self.settings
        wanted = shared.intensity_target(a, b, settings.intensity_rule, settings.intensity_share)
        count = len(pictures)
        # One call for all of them: it compiles once.
        stacked = (jnp.concatenate([x] * count) for x in (a, b, wanted))
        found = losses.terms(jnp.concatenate(pictures), *stacked)
        means = {name: jnp.mean(v.reshape(count, -1), 1) for name, v in found.items()}
        totals = sum(getattr(settings, name) * value for name, value in means.items())
        return jnp.asarray(totals), {name: value[0] for name, value in means.items()}

    def _exchanging(self, layers: dict[str, list[jax.Array]]) -> Metrics:
        """The share of each branch's channels that are replaced, over all layers."""
        config = self.model_config
        if not config.exchange:
            return {f"exchanging.{m}": jnp.zeros(()) for m in range(BRANCHES)}
        rule = ChannelExchange(config.threshold, config.parts)
        counts = sum(rule.count(scales) for scales in layers.values())
        shares = jnp.asarray(counts) / sum(config.encoder)
        return {f"exchanging.{m}": shares[m] for m in range(BRANCHES)}
