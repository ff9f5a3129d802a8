"""Training of EMMA in two phases (Zhao et al., CVPR 2024).

    sensing  A_a, A_b   each makes a source of a picture that other methods fused:
                        mean squared errors of A_a(t) to a and of A_b(t) to b
    fusion   F          under both of them, which are frozen:

        f = F(a, b)     v = all views of f (`views.stack`)     v' = F(A_a(v), A_b(v))
        L = D(A_a(f), a) + D(A_b(f), b) + equivariance D(v, v')     D the `losses.likeness`

No term compares the result with the sources themselves. The fused pictures of the first phase are
the ``target`` of stored pairs: the third folder of a prepared set. Network names: ``sensing_a``,
``sensing_b`` (with batch norm) and ``fusion``, which ships.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mgdn_jax import losses
from mgdn_jax.errors import InputError
from mgdn_jax.layers import functional
from mgdn_jax.layers.mode import EVAL, Mode
from mgdn_jax.systems import registry
from mgdn_jax.systems.base import BaseRecipe
from mgdn_jax.systems.contract import Batch, Metrics, Networks, Phase
from mgdn_jax.systems.emma import views
from mgdn_jax.systems.emma.losses import likeness
from mgdn_jax.systems.emma.network import SensingConfig

SENSING = ("sensing_a", "sensing_b")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The `recipe` block.

    Attributes:
        sensing: channels of each level of the sensing networks, each twice the one before; crops
            must be multiples of 2 for every level after the first.
        first_phase: part of the training that is the first phase.
        momentum: of the running statistics of the sensing networks.
        noise: deviation, at most, of the noise on the fused pictures of the first phase, drawn for
            each; 0 as published. Sensing networks that heed faint patterns teach the U-Fuser to
            draw such patterns.
        equivariance: coefficient of the third term.
        views: how many views of each picture the third term has in a step of the training: the
            picture itself and others of the stack, drawn for each picture. All of them, as
            published, are `views.COUNT`; fewer are quicker, and in the mean the same but for the
            greater share of the picture itself.
        norm_floor: of the attention while training (see `systems.emma.network.Config`); the
            shipped network has that of ``model``.
    """

    sensing: tuple[int, ...] = (64, 128, 256, 512, 1024)
    first_phase: float = 0.25
    momentum: float = 0.9
    noise: float = 0.0
    equivariance: float = 0.1
    views: int = views.COUNT
    norm_floor: float = 1e-12

    def __post_init__(self):
        SensingConfig(tuple(self.sensing), self.momentum)
        if not 1 <= self.views <= views.COUNT:
            raise InputError(f"recipe.views is {self.views!r} and must be in 1 to {views.COUNT}")
        if not 0 < self.first_phase < 1:
            raise InputError(f"recipe.first_phase is {self.first_phase!r} and must be in (0, 1)")
        for field, least in (("noise", 0), ("equivariance", 0), ("norm_floor", 1e-18)):
            value = getattr(self, field)
            if value < least:
                raise InputError(f"recipe.{field} is {value!r} and must be {least:g} or more")


class Recipe(BaseRecipe):
    """Three networks, two phases; the U-Fuser ships.

    The first source is infrared (CT, PET, SPECT), the second visible (MRI), as everywhere here.
    """

    system = "emma"
    networks = (*SENSING, "fusion")
    settings_type = Settings
    settings: Settings

    def __init__(self, model: Mapping[str, Any] | None = None, **settings: Any):
        super().__init__(model, **settings)
        first = self.settings.first_phase
        self.phases = (Phase("sensing", SENSING, first), Phase("fusion", ("fusion",), 1 - first))
        self.sensing_config = SensingConfig(tuple(self.settings.sensing), self.settings.momentum)
        self._training_config = self.model_config.for_training(self.settings.norm_floor)

    def init(self, key: jax.Array) -> tuple[Networks, Networks]:
        """Fresh ``(params, stats)`` by network name."""
        params, stats = {}, {}
        own, *sensing = jax.random.split(key, 3)
        for name, each in zip(SENSING, sensing, strict=True):
            _, params[name], stats[name] = registry.initialise(
                self.system, self.sensing_config, each, "SensingNetwork"
            )
        _, params["fusion"], stats["fusion"] = registry.initialise(
            self.system, self.model_config, own
        )
        return params, stats

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
        """Mean loss of a batch, the statistics after it, and the terms of the phase.

        Args:
            params: flat parameters by network.
            stats: flat running statistics by network.
            batch: ``a`` (infrared) and ``b`` (visible), (B, h, w, 1) in [0, 1]; in the first
                phase also ``target``, a fused picture.
            keys: (B,) keys, which draw the shifts of each picture; None runs the networks as they
                are used, with shifts by quarters.
            phase: ``"sensing"`` or ``"fusion"``.
            axis_name: mapped axis whose devices share the batch.

        Raises:
            InputError: images are not luminance, there are no fused pictures, or the crops do not
                fit the sensing networks.
        """
        a, b = self.luminance_sources(batch)
        grid = self.sensing_config.grid
        if any(side % grid for side in a.shape[1:3]):
            raise InputError(
                f"pictures of {a.shape[1]} x {a.shape[2]} do not fit sensing networks of"
                f" {len(self.sensing_config.features)} levels; make data.train.crop and"
                f" data.validation.crop multiples of {grid}"
            )
        if phase == "sensing":
            return self._sensing(params, stats, batch, keys, axis_name)
        shifts = views.draw_shifts(keys, *a.shape[:3])
        chosen = None
        if keys is not None and self.settings.views < views.COUNT:
            chosen = views.draw_views(keys, self.settings.views)
        terms = self.terms(params, stats, a, b, shifts, chosen)
        total = terms["sense_a"] + terms["sense_b"]
        total = total + self.settings.equivariance * terms["equivariance"]
        return total, (stats, terms)

    def terms(
        self,
        params: Networks,
        stats: Networks,
        a: Array,
        b: Array,
        shifts: Array,
        chosen: Array | None = None,
    ) -> Metrics:
        """The three terms of the second phase, means over the batch.

        Args:
            params: flat parameters by network.
            stats: flat running statistics by network.
            a: first sources.
            b: second sources.
            shifts: of the views (`views.draw_shifts`).
            chosen: which views the third term has (`views.draw_views`); None for all.
        """
        graphdef = registry.graphdef(self.system, self._training_config)

        def fused(a: Array, b: Array) -> Float[Array, "b h w 1"]:
            return functional.apply(graphdef, params["fusion"], stats["fusion"], a, b)[0][0]

        seen = views.stack(fused(a, b), shifts)
        if chosen is not None:
            seen = views.pick(seen, chosen)
        sensed = [self._sensed(params, stats, name, seen)[0] for name in SENSING]
        # The pictures themselves are the first of their views.
        of_a, of_b = (x[: len(a)] for x in sensed)
        return {
            "sense_a": jnp.mean(likeness(of_a, a)),
            "sense_b": jnp.mean(likeness(of_b, b)),
            "equivariance": jnp.mean(likeness(seen, fused(*sensed))),
        }

    def judge(
        self, params: Networks, stats: Networks, batch: Batch
    ) -> tuple[Metrics, Sequence[jax.Array]]:
        """No figures; what the sensing networks make of the fused pictures, to look at."""
        fused = self.fuse(params, stats, *self.sources(batch))
        return {}, [self._sensed(params, stats, name, fused)[0] for name in SENSING]

    def card(self) -> dict[str, Any]:
        """What the card of the shipped weights says about the loss they were trained with."""
        loss = {"sensing": list(self.settings.sensing), "equivariance": self.settings.equivariance}
        return {"loss": loss, "inputs": "infrared, visible"}

    def _sensing(
        self,
        params: Networks,
        stats: Networks,
        batch: Batch,
        keys: jax.Array | None,
        axis_name: str | None,
    ) -> tuple[jax.Array, tuple[Networks, Metrics]]:
        """The first phase: both errors, each of which is one network's alone."""
        if "target" not in batch:
            raise InputError(
                "the sensing networks learn from fused pictures, and the set has none; prepare it"
                " with a third folder (mgdn data prepare pairs --folders ir vi fused)"
            )
        fused = batch["target"]
        if keys is not None and self.settings.noise:
            fused = fused + _noise(keys, fused, self.settings.noise)
        terms, new = {}, dict(stats)
        for name, source in zip(SENSING, "ab", strict=True):
            mode = Mode(training=keys is not None, axis_name=axis_name)
            made, new[name] = self._sensed(params, stats, name, fused, mode)
            terms[f"error_{source}"] = jnp.mean(losses.mse(made, batch[source]))
        return terms["error_a"] + terms["error_b"], (new, terms)

    def _sensed(
        self, params: Networks, stats: Networks, name: str, x: Array, mode: Mode = EVAL
    ) -> tuple[Float[Array, "b h w 1"], functional.Flat]:
        """What a sensing network makes of pictures, and its statistics after that."""
        graphdef = registry.graphdef(self.system, self.sensing_config, "SensingNetwork")
        return functional.apply(graphdef, params[name], stats[name], x, mode)


def _noise(keys: jax.Array, pictures: Array, most: float) -> Float[Array, "b h w 1"]:
    """Normal noise for each picture, of a deviation drawn from 0 to ``most``."""

    def of_picture(key: jax.Array) -> Array:
        spread, values = jax.random.split(key)
        drawn = jax.random.normal(values, pictures.shape[1:], pictures.dtype)
        return most * jax.random.uniform(spread, dtype=pictures.dtype) * drawn

    return jax.vmap(of_picture)(keys)
