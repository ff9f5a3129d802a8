"""Training of CDDFuse in two phases (Zhao et al., CVPR 2023).

    I  encoder, decoder             each source rebuilt from its own features
    II all four networks            the sources fused

Both phases tell base from detail features by `losses.decomposition`. Network names:
``encoder``, ``decoder``, ``base_fusion``, ``detail_fusion``. Each has its optimiser, whose
moments go on from phase to phase; what ships is the four of them, joined (`Network` of the model).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mgdn_jax import losses, models
from mgdn_jax.errors import InputError
from mgdn_jax.layers import functional
from mgdn_jax.layers.functional import Flat, above, below
from mgdn_jax.recipes import Phase

Batch = dict[str, Array]
Networks = dict[str, Flat]

# Name of a network -> its class in mgdn_jax.models.cddfuse.
CLASSES = {
    "encoder": "Encoder",
    "decoder": "Decoder",
    "base_fusion": "BaseFusion",
    "detail_fusion": "DetailFusion",
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Four networks, two phases.

    The first source is infrared (CT, PET, SPECT), the second visible (MRI), as everywhere here.

    Attributes:
        model: fields of `mgdn_jax.models.cddfuse.Config`, or {"preset": name, field: value, ...}.
        form: ``"released"`` or ``"paper"``, see `losses.reconstruction_phase` and
            `losses.decomposition`. The default is the released code's, which the published weights
            and figures come from. Its correlations are means over the batch (of all devices; with
            ``train.accumulate`` over each part); ``"paper"`` takes every pair by itself.
        first_phase: part of the training that is phase I.
    """

    model: dict[str, Any]
    form: str = "released"
    first_phase: float = 1 / 3
    model_config: Any = dataclasses.field(init=False)
    phases: tuple[Phase, ...] = dataclasses.field(init=False)
    _graphdefs: Any = dataclasses.field(init=False, repr=False)

    system = "cddfuse"
    networks = tuple(CLASSES)

    def __post_init__(self):
        if self.form not in losses.FORMS:
            raise InputError(
                f"recipe.form is {self.form!r}; choose one of {', '.join(losses.FORMS)}"
            )
        if not isinstance(self.first_phase, int | float) or not 0 < self.first_phase < 1:
            raise InputError(f"recipe.first_phase is {self.first_phase!r} and must be in (0, 1)")
        fields = dict(self.model)
        config = models.preset(self.system, fields.pop("preset", "") or "ivf", **fields)
        phases = (
            Phase("reconstruction", ("encoder", "decoder"), self.first_phase),
            Phase("fusion", self.networks, 1 - self.first_phase),
        )
        graphdefs = {
            name: models.abstract(self.system, config, kind)[0]
            for name, kind in {**CLASSES, "joined": "Network"}.items()
        }
        for name, value in (
            ("model_config", config),
            ("phases", phases),
            ("_graphdefs", graphdefs),
        ):
            object.__setattr__(self, name, value)

    def init(self, key: jax.Array) -> tuple[Networks, Networks]:
        """Fresh ``(params, stats)`` by network name."""
        keys = jax.random.split(key, len(CLASSES))
        params = {
            name: models.initialise(self.system, self.model_config, own, kind)[1]
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

    def sources(self, batch: Batch) -> list[jax.Array]:
        """Input images of a batch in the network's order."""
        return [batch["a"], batch["b"]]

    def fuse(self, params: Networks, stats: Networks, *images: jax.Array) -> jax.Array:
        """Fused images of the shipped network; of no use before phase II."""
        return self._fused(params, stats, *images)[0]

    def loss(
        self,
        params: Networks,
        stats: Networks,
        batch: Batch,
        keys: jax.Array | None,
        phase: str = "fusion",
        *,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, tuple[Networks, dict[str, jax.Array]]]:
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
        a, b = self.sources(batch)
        if a.shape[-1] != 1 or b.shape[-1] != 1:
            raise InputError("CDDFuse is about luminance; set data.channels=1")
        if phase == "reconstruction":
            (rebuilt_a, rebuilt_b), features = self._rebuilt(params, a, b)
        else:
            fused, features = self._fused(params, stats, a, b)
        base, detail = (
            features[kind].astype(jnp.promote_types(features[kind].dtype, jnp.float32))
            for kind in ("base", "detail")
        )
        apart = losses.decomposition(
            base[0], base[1], detail[0], detail[1], form=self.form, axis_name=axis_name
        )
        terms = {
            "decomposition": apart,
            "cc_base": losses.correlation(base[0], base[1]),
            "cc_detail": losses.correlation(detail[0], detail[1]),
        }
        if phase == "reconstruction":
            value = losses.reconstruction_phase(a, b, rebuilt_a, rebuilt_b, apart, form=self.form)
        else:
            value = losses.fusion_phase(fused, a, b, apart)
            terms["intensity"] = losses.intensity(fused, a, b)
        return jnp.mean(value), (stats, {name: jnp.mean(term) for name, term in terms.items()})

    def card(self) -> dict[str, Any]:
        """What the card of the shipped weights says about the loss they were trained with."""
        return {
            "loss": {"form": self.form, "first_phase": self.first_phase},
            "inputs": "CT/PET/SPECT, MRI"
            if self.model_config.skip != "second"
            else "infrared, visible",
        }

    def _rebuilt(
        self, params: Networks, a: Array, b: Array
    ) -> tuple[Float[Array, "2 b h w 1"], dict[str, Float[Array, "2 b h w c"]]]:
        """Both sources from their own features, and the features, first source first."""
        both = jnp.concatenate([a, b])
        graphdefs = self._graphdefs
        features = functional.apply(graphdefs["encoder"], params["encoder"], {}, both)[0][0]
        rebuilt = functional.apply(
            graphdefs["decoder"], params["decoder"], {}, both, features["base"], features["detail"]
        )[0][0]
        pairs = {name: x.reshape(2, -1, *x.shape[1:]) for name, x in features.items()}
        return rebuilt.reshape(2, *a.shape), pairs

    def _fused(
        self, params: Networks, stats: Networks, a: Array, b: Array
    ) -> tuple[Float[Array, "b h w 1"], dict[str, Array]]:
        joined, _ = self.join(params, stats)
        return functional.apply(self._graphdefs["joined"], joined, {}, a, b)[0]
