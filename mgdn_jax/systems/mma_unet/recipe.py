"""Training of MMA-UNet in three phases; of the released code, the loss of the third one alone.

    visible   V, its decoder    the visible picture rebuilt from its own maps
    infrared  I, its decoder    the infrared one likewise, its maps gated by those of V, frozen
    fusion    F                 the sources fused, under V and I, which are frozen

Frozen encoders run by their running statistics. How the U-Nets were trained is not known: their
loss, `losses.reconstruction`, is ours. Network names: ``visible``, ``visible_decoder``,
``infrared``, ``infrared_decoder``, ``fusion``. What ships are the encoders and the fusion, joined.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from mgdn_jax.errors import InputError
from mgdn_jax.layers import functional
from mgdn_jax.layers.functional import Flat, above, below
from mgdn_jax.layers.mode import EVAL, Mode
from mgdn_jax.losses import INTENSITY_RULES, mse
from mgdn_jax.systems import registry
from mgdn_jax.systems.base import BaseRecipe
from mgdn_jax.systems.contract import Batch, Metrics, Networks, Phase
from mgdn_jax.systems.mma_unet.losses import fusion, fusion_terms, reconstruction
from mgdn_jax.systems.mma_unet.network import GRID, as_three

# Name of a network -> its class in network.py.
CLASSES = {
    "visible": "Encoder",
    "visible_decoder": "Decoder",
    "infrared": "GuidedEncoder",
    "infrared_decoder": "Decoder",
    "fusion": "Fusion",
}
SHIPPED = ("visible", "infrared", "fusion")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The `recipe` block.

    Attributes:
        visible_phase: part of the training that is the first phase.
        infrared_phase: part that is the second one; the rest is the third.
        rebuilding_ssim: coefficient of the structural term while the U-Nets learn to rebuild.
        gradient: coefficient of the squared distance to the stronger gradient, 10 as released.
        ssim: coefficient of the structural terms, 0.5 as released.
        intensity: coefficient of the distance of intensities, 1 as released.
        intensity_rule: what intensities are compared with, of `losses.INTENSITY_RULES`; the
            ``"mean"`` of both sources as released, which leaves little contrast.
    """

    visible_phase: float = 4 / 9
    infrared_phase: float = 4 / 9
    rebuilding_ssim: float = 0.5
    gradient: float = 10.0
    ssim: float = 0.5
    intensity: float = 1.0
    intensity_rule: str = "mean"

    def __post_init__(self):
        for field in ("visible_phase", "infrared_phase"):
            value = getattr(self, field)
            if not 0 < value < 1:
                raise InputError(f"recipe.{field} is {value!r} and must be in (0, 1)")
        both = self.visible_phase + self.infrared_phase
        if both >= 1:
            raise InputError(
                f"recipe.visible_phase and recipe.infrared_phase are {both:g} together, which"
                " leaves nothing for the fusion; lower one of them"
            )
        for field in ("rebuilding_ssim", "gradient", "ssim", "intensity"):
            value = getattr(self, field)
            if value < 0:
                raise InputError(f"recipe.{field} is {value!r} and must be 0 or more")
        if self.intensity_rule not in INTENSITY_RULES:
            raise InputError(
                f"recipe.intensity_rule is {self.intensity_rule!r}; choose one of"
                f" {', '.join(INTENSITY_RULES)}"
            )


class Recipe(BaseRecipe):
    """Five networks, three phases; encoders and fusion ship.

    The first source is infrared, the second visible, as everywhere here.
    """

    system = "mma_unet"
    networks = tuple(CLASSES)
    settings_type = Settings
    settings: Settings

    def __init__(self, model: Mapping[str, Any] | None = None, **settings: Any):
        super().__init__(model, **settings)
        first, second = self.settings.visible_phase, self.settings.infrared_phase
        self.phases = (
            Phase("visible", ("visible", "visible_decoder"), first),
            Phase("infrared", ("infrared", "infrared_decoder"), second),
            Phase("fusion", ("fusion",), 1 - first - second),
        )

    def init(self, key: jax.Array) -> tuple[Networks, Networks]:
        """Fresh ``(params, stats)`` by network name."""
        params, stats = {}, {}
        keys = jax.random.split(key, len(CLASSES))
        for own, (name, kind) in zip(keys, CLASSES.items(), strict=True):
            _, params[name], stats[name] = registry.initialise(
                self.system, self.model_config, own, kind
            )
        return params, stats

    def join(self, params: Networks, stats: Networks) -> tuple[Flat, Flat]:
        """``(params, stats)`` of the network that ships."""
        joined: tuple[Flat, Flat] = ({}, {})
        for flat, networks in zip(joined, (params, stats), strict=True):
            for name in SHIPPED:
                flat |= above(name, networks[name])
        return joined

    def part(self, params: Flat, stats: Flat) -> tuple[Networks, Networks]:
        """Inverse of `join`."""
        own, moments = (
            {name: below(flat, name) or {} for name in SHIPPED} for flat in (params, stats)
        )
        return own, moments

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
            batch: ``a`` (infrared) and ``b`` (visible), (B, h, w, 1) in [0, 1].
            keys: (B,) keys, of which only their being there counts; None runs the networks as they
                are used.
            phase: ``"visible"``, ``"infrared"`` or ``"fusion"``.
            axis_name: mapped axis whose devices share the batch.

        Raises:
            InputError: images are not luminance, or too small for four halvings.
        """
        a, b = self.luminance_sources(batch)
        if min(a.shape[1:3]) < GRID:
            raise InputError(
                f"pictures of {a.shape[1]} x {a.shape[2]} are too small for four halvings; make"
                f" data.train.crop and data.validation.crop {GRID} or more"
            )
        mode = EVAL if keys is None else Mode(training=True, axis_name=axis_name)
        if phase == "fusion":
            return self._fusing(params, stats, a, b, mode, axis_name)
        image, new = as_three(a if phase == "infrared" else b), dict(stats)
        maps, moved = self._seen(params, stats, phase, a, b, mode)
        decoder = f"{phase}_decoder"
        rebuilt, new[decoder] = self._apply(params, stats, decoder, maps, mode)
        new[phase] = moved
        value = reconstruction(rebuilt, image, ssim=self.settings.rebuilding_ssim)
        return jnp.mean(value), (new, {"mse": jnp.mean(mse(rebuilt, image))})

    def judge(
        self, params: Networks, stats: Networks, batch: Batch
    ) -> tuple[Metrics, Sequence[jax.Array]]:
        """No figures; both sources as their U-Nets rebuild them, to look at."""
        a, b = self.luminance_sources(batch)
        rebuilt = []
        for name in ("infrared", "visible"):
            maps, _ = self._seen(params, stats, name, a, b, EVAL)
            rebuilt.append(self._apply(params, stats, f"{name}_decoder", maps, EVAL)[0][..., :1])
        return {}, rebuilt

    def card(self) -> dict[str, Any]:
        """What the card of the shipped weights says about the loss they were trained with."""
        return {
            "loss": {
                field: getattr(self.settings, field)
                for field in ("rebuilding_ssim", "gradient", "ssim", "intensity", "intensity_rule")
            },
            "inputs": "infrared, visible",
        }

    def _fusing(
        self,
        params: Networks,
        stats: Networks,
        a: Array,
        b: Array,
        mode: Mode,
        axis_name: str | None,
    ) -> tuple[jax.Array, tuple[Networks, Metrics]]:
        """The third phase."""
        settings, joined = self.settings, self.join(params, stats)
        graphdef = registry.graphdef(self.system, self.model_config)
        (_, aux), new = functional.apply(graphdef, *joined, a, b, mode=mode)
        terms = fusion_terms(
            aux["channels"],
            as_three(a),
            as_three(b),
            rule=settings.intensity_rule,
            axis_name=axis_name,
        )
        value = fusion(
            terms,
            gradient=settings.gradient,
            ssim=settings.ssim,
            intensity=settings.intensity,
        )
        moved = {**stats, "fusion": below(new, "fusion") or {}}
        return jnp.mean(value), (moved, {name: jnp.mean(term) for name, term in terms.items()})

    def _seen(
        self, params: Networks, stats: Networks, name: str, a: Array, b: Array, mode: Mode
    ) -> tuple[list[Array], Flat]:
        """Maps of an encoder, and its statistics after that; the one that guides it is frozen."""
        if name == "visible":
            return self._apply(params, stats, name, as_three(b), mode)
        guides, _ = self._apply(params, stats, "visible", as_three(b), EVAL)
        return self._apply(params, stats, name, as_three(a), guides, mode)

    def _apply(self, params: Networks, stats: Networks, name: str, *args: Any) -> tuple[Any, Flat]:
        """A network by name, and its statistics after that."""
        graphdef = registry.graphdef(self.system, self.model_config, CLASSES[name])
        return functional.apply(graphdef, params[name], stats[name], *args)
