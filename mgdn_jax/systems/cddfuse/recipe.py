"""Training of CDDFuse in two phases (Zhao et al., CVPR 2023).

    I  encoder, decoder             each source rebuilt from its own features
    II all four networks            the sources fused

Both phases tell base from detail features by `decomposition`. Network names:
``encoder``, ``decoder``, ``base_fusion``, ``detail_fusion``. Each has its optimiser, whose
moments go on from phase to phase; what ships is the four of them, joined (`Network` of the model).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mgdn_jax import losses
from mgdn_jax.errors import InputError
from mgdn_jax.layers import functional
from mgdn_jax.layers.functional import Flat, above, below
from mgdn_jax.systems import registry
from mgdn_jax.systems.base import BaseRecipe
from mgdn_jax.systems.cddfuse.losses import (
    FORMS,
    decomposition,
    fusion_phase,
    reconstruction_phase,
)
from mgdn_jax.systems.contract import Batch, Metrics, Networks, Phase

# Name of a network -> its class in network.py.
CLASSES = {
    "encoder": "Encoder",
    "decoder": "Decoder",
    "base_fusion": "BaseFusion",
    "detail_fusion": "DetailFusion",
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """The `recipe` block.

    Attributes:
        form: ``"released"`` or ``"paper"``, see `reconstruction_phase` and
            `decomposition`. The default is the released code's, which the published weights
            and figures come from. Its correlations are means over the batch (of all devices; with
            ``train.accumulate`` over each part); ``"paper"`` takes every pair by itself.
        first_phase: part of the training that is phase I.
    """

    form: str = "released"
    first_phase: float = 1 / 3

    def __post_init__(self):
        if self.form not in FORMS:
            raise InputError(f"recipe.form is {self.form!r}; choose one of {', '.join(FORMS)}")
        if not isinstance(self.first_phase, int | float) or not 0 < self.first_phase < 1:
            raise InputError(f"recipe.first_phase is {self.first_phase!r} and must be in (0, 1)")


class Recipe(BaseRecipe):
    """Four networks, two phases.

    The first source is infrared (CT, PET, SPECT), the second visible (MRI), as everywhere here.
    """

    system = "cddfuse"
    networks = tuple(CLASSES)
    settings_type = Settings
    settings: Settings

    def __init__(self, model: Mapping[str, Any] | None = None, **settings: Any):
        super().__init__(model, **settings)
        first = self.settings.first_phase
        self.phases = (
            Phase("reconstruction", ("encoder", "decoder"), first),
            Phase("fusion", self.networks, 1 - first),
        )

    def init(self, key: jax.Array) -> tuple[Networks, Networks]:
        """Fresh ``(params, stats)`` by network name."""
        keys = jax.random.split(key, len(CLASSES))
        params = {
            name: registry.initialise(self.system, self.model_config, own, kind)[1]
            for own, (name, kind) in zip(keys, CLASSES.items(), strict=True)
        }
        return params, {name: {} for name in params}

    def join(self, params: Networks, stats: Networks) -> tuple[Flat, Flat]:
        """``(params, stats)`` of the network that ships."""
        del stats
        joined: Flat = {}
        for name in CLASSES:
            joined |= above(name, params[name])
        return joined, {}

    def part(self, params: Flat, stats: Flat) -> tuple[Networks, Networks]:
        """Inverse of `join`."""
        del stats
        own = {name: below(params, name) or {} for name in CLASSES}
        return own, {name: {} for name in own}

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
        """Mean loss of a batch, the (empty) statistics, and the terms of the phase.

        Args:
            params: flat parameters by network.
            stats: empty, by network.
            batch: ``a`` (infrared) and ``b`` (visible), (B, h, w, 1) in [0, 1].
            keys: not used.
            phase: ``"reconstruction"`` or ``"fusion"``.
            axis_name: mapped axis that the batch is spread over, if any.

        Raises:
            InputError: images are not luminance.
        """
        del keys
        a, b = self.luminance_sources(batch)
        if phase == "reconstruction":
            (rebuilt_a, rebuilt_b), features = self._rebuilt(params, a, b)
        else:
            fused, features = self._fused(params, stats, a, b)
        base, detail = (
            features[kind].astype(jnp.promote_types(features[kind].dtype, jnp.float32))
            for kind in ("base", "detail")
        )
        apart = decomposition(
            base[0], base[1], detail[0], detail[1], form=self.settings.form, axis_name=axis_name
        )
        terms = {
            "decomposition": apart,
            "cc_base": losses.correlation(base[0], base[1]),
            "cc_detail": losses.correlation(detail[0], detail[1]),
        }
        if phase == "reconstruction":
            value = reconstruction_phase(a, b, rebuilt_a, rebuilt_b, apart, form=self.settings.form)
        else:
            value = fusion_phase(fused, a, b, apart)
            terms["intensity"] = losses.intensity(fused, a, b)
        return jnp.mean(value), (stats, {name: jnp.mean(term) for name, term in terms.items()})

    def card(self) -> dict[str, Any]:
        """What the card of the shipped weights says about the loss they were trained with."""
        return {
            "loss": {"form": self.settings.form, "first_phase": self.settings.first_phase},
            "inputs": "CT/PET/SPECT, MRI"
            if self.model_config.skip != "second"
            else "infrared, visible",
        }

    def _rebuilt(
        self, params: Networks, a: Array, b: Array
    ) -> tuple[Float[Array, "2 b h w 1"], dict[str, Float[Array, "2 b h w c"]]]:
        """Both sources from their own features, and the features, first source first."""
        both = jnp.concatenate([a, b])
        encoder, decoder = self._graphdef("encoder"), self._graphdef("decoder")
        features = functional.apply(encoder, params["encoder"], {}, both)[0][0]
        rebuilt = functional.apply(
            decoder, params["decoder"], {}, both, features["base"], features["detail"]
        )[0][0]
        pairs = {name: x.reshape(2, -1, *x.shape[1:]) for name, x in features.items()}
        return rebuilt.reshape(2, *a.shape), pairs

    def _fused(
        self, params: Networks, stats: Networks, a: Array, b: Array
    ) -> tuple[Float[Array, "b h w 1"], dict[str, Array]]:
        joined, _ = self.join(params, stats)
        return functional.apply(
            registry.graphdef(self.system, self.model_config), joined, {}, a, b
        )[0]

    def _graphdef(self, name: str) -> Any:
        return registry.graphdef(self.system, self.model_config, CLASSES[name])
