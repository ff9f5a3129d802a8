"""Training of DeFusion on single photographs (`pretext`), in two phases.

    decomposition    what both pictures show, and what each shows alone
    fusion           the fused picture as well

Network names: ``parts``, all but the last convolution, and ``rule``, that convolution, which the
first phase leaves as it is: its optimiser counts from the second on. Weights of the loss change
with the number of calls so far, a statistic of ``rule``, so that a run that was stopped goes on
where it was.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from mgdn_jax.errors import InputError
from mgdn_jax.layers import functional
from mgdn_jax.layers.functional import Flat, above, below
from mgdn_jax.systems import registry
from mgdn_jax.systems.base import BaseRecipe
from mgdn_jax.systems.contract import Batch, Metrics, Networks, Phase
from mgdn_jax.systems.defusion import losses

PARTS, RULE = "parts", "rule"
DECOMPOSITION, FUSION = "decomposition", "fusion"
_CALLS = "calls"


@dataclasses.dataclass(frozen=True)
class Settings(losses.Annealing):
    """The `recipe` block; defaults are the published ones.

    Calls of the loss are training steps; with ``train.accumulate`` every part of a batch is a call,
    while phases count steps. The weights of the terms then run ahead of the phases: leave it at 1.

    Attributes:
        scale: the loss is the mean over the batch times this; published is the sum over four.
        start_gain: factor of the last convolution of every bottleneck at the start. At 1, as
            published, the maps of a fresh network grow to hundreds.
        start_level: added to the biases before the last ReLUs at the start, for a picture that is 0
            everywhere never learns again. Published is 0.
    """

    scale: float = 4.0
    start_gain: float = 1.0
    start_level: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        for name in ("scale", "start_gain"):
            if not getattr(self, name) > 0:
                raise InputError(f"recipe.{name} is {getattr(self, name)} and must be above 0")


class Recipe(BaseRecipe):
    """Two networks, two phases; the second alone where ``fusion_from`` is 0."""

    system = "defusion"
    networks = (PARTS, RULE)
    settings_type = Settings
    settings: Settings

    def __init__(self, model: Any = None, **settings: Any):
        super().__init__(model, **settings)
        first = Phase(DECOMPOSITION, (PARTS,), share=0.0, steps=self.settings.fusion_from)
        self.phases = (*([first] if first.steps else []), Phase(FUSION, (PARTS, RULE)))
        # Crops are what they are: only whole pictures have a border.
        self._training_config = dataclasses.replace(self.model_config, border=0)

    def init(self, key: jax.Array) -> tuple[Networks, Networks]:
        """Fresh ``(params, stats)`` by network name."""
        settings = self.settings
        _, whole, _ = registry.initialise(self.system, self.model_config, key)
        for name, value in whole.items():
            if name.endswith("widen/kernel"):
                whole[name] = settings.start_gain * value
            elif name.endswith("project/bias"):
                whole[name] = value + settings.start_level
        return self.part(whole, {})

    def join(self, params: Networks, stats: Networks) -> tuple[Flat, Flat]:
        """``(params, stats)`` of the network that ships."""
        del stats
        return {**above(PARTS, params[PARTS]), **above(RULE, params[RULE])}, {}

    def part(self, params: Flat, stats: Flat) -> tuple[Networks, Networks]:
        """Inverse of `join`; calls are counted from 0."""
        del stats
        networks = {name: below(params, name) or {} for name in self.networks}
        return networks, {PARTS: {}, RULE: {_CALLS: jnp.zeros((), jnp.float32)}}

    def loss(
        self,
        params: Networks,
        stats: Networks,
        batch: Batch,
        keys: jax.Array | None,
        phase: str = FUSION,
        *,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, tuple[Networks, Metrics]]:
        """Mean loss of a batch, the calls so far, and the terms.

        Args:
            params: flat parameters by network.
            stats: the calls so far.
            batch: ``a``, ``b`` and ``target``, (B, h, w, 3) in [0, 1]; ``mask_a`` and ``mask_b``,
                (B, h, w, 1).
            keys: None in validation, where weights are those at the end, so that figures compare.
            phase: ``"decomposition"`` or ``"fusion"``.
            axis_name: not used.

        Raises:
            InputError: the batch has no masks.
        """
        del axis_name
        if "mask_a" not in batch:
            raise InputError(
                f"{self.system} learns from single photographs; set"
                " data.task=mgdn_jax.systems.defusion.pretext"
            )
        is_training = keys is not None
        calls = stats[RULE][_CALLS]
        target = batch["target"]
        fused, aux = self._apply(params, batch["a"], batch["b"])
        t = (calls if is_training else jnp.full_like(calls, jnp.inf)).astype(fused.dtype)
        outside = losses.outside_weight(t, self.settings)
        masks = batch["mask_a"], batch["mask_b"]
        terms = losses.terms(aux["common"], aux["upper"], aux["lower"], target, masks, outside)
        if phase == FUSION or not is_training:
            weight = losses.fusion_weight(t, self.settings)
            terms["fusion"] = weight * losses.fusion(fused, target)
        metrics = {name: jnp.mean(value) for name, value in terms.items()}
        total = self.settings.scale * sum(metrics.values())
        new = {**stats, RULE: {_CALLS: calls + 1}} if is_training else stats
        return jnp.asarray(total), (new, metrics)

    def card(self) -> dict[str, Any]:
        """What the card of the shipped weights says about roles and loss."""
        return {
            "inputs": "infrared, visible; over-, under-exposed; near, far",
            "loss": dataclasses.asdict(self.settings),
        }

    def _apply(self, params: Networks, a: jax.Array, b: jax.Array) -> Any:
        graphdef = registry.graphdef(self.system, self._training_config)
        return functional.apply(graphdef, *self.join(params, {}), a, b)[0]
