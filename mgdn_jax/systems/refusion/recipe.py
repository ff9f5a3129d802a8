"""Training of ReFusion: a fusion network under a loss that is itself learned (Bai et al., 2024).

    minimise over phi    L_out(D_test; psi', theta'(phi))
    where theta'(phi)  = theta after K inner steps on L_f(D_train; theta, phi)

Network names: ``fusion`` (F, theta), ``proposal`` (P, phi; makes the weights in L_f) and
``reconstruction`` (R, psi; what L_out and its own loss are about) or ``task``, a network of yours.
What is ReFusion's and what is this project's: docs/systems/refusion.md.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float

from mgdn_jax import bilevel, losses
from mgdn_jax.errors import InputError
from mgdn_jax.layers import functional
from mgdn_jax.layers.functional import Flat
from mgdn_jax.systems import registry
from mgdn_jax.systems.base import BaseRecipe
from mgdn_jax.systems.contract import Batch, Meta, MetaRecipe, Metrics, Networks, Phase
from mgdn_jax.systems.refusion import judges
from mgdn_jax.systems.refusion.losses import weighted_gradient, weighted_intensity
from mgdn_jax.systems.refusion.network import Config

Maps = dict[str, Float[Array, "b h w 2"]]

FORMS = ("R", "T")
OPTIMISERS = ("sgd", "normalised_sgd", "adam")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The `recipe` block.

    Attributes:
        auxiliary: fields of `systems.refusion.network.Config` for P and R, where they differ from
            ``model`` (of ReFusion) or from the published ones.
        form: ``"R"``, or ``"T"`` as in TDFusion (the same authors' later work).
        outer: what P is judged by. ``"reconstruction"``: R's worse reconstruction a pixel, of
            intensities and Sobel strengths; ``"mse"``: R's squared errors; ``"supervised_l1"``:
            distance to ``target``; or the dotted path of ``outer(psi, fused, batch) -> losses``,
            (B,) or a scalar. A callable with ``init(key) -> psi`` brings the network ``task``,
            which is trained on the same loss; a class is instantiated first.
        intensity: coefficient of int.
        gradient: coefficient of grad, at the end of the ramp if there is one.
        ramp: grad's coefficient grows in proportion to the steps done.
        reconstruction_intensity: coefficient of intensities in ``"reconstruction"``.
        reconstruction_gradient: coefficient of Sobel strengths in it.
        inner_steps: K.
        inner_rate: inner learning rate; 0 takes the current one of F, as published.
        inner_optimiser: ``"sgd"``, as published; ``"normalised_sgd"``, steps as long as the rate
            whatever the gradient, so that P cannot win by making L_f steeper; ``"adam"``; or the
            dotted path of ``f(rate) -> optax``.
        mode: of `bilevel.MODES`, or ``"auto"``: mixed_product for K = 1, else unrolled.
        trainable: regular expressions for the parameters of F that inner steps adapt; () for all.
        meta_every: P learns in one of so many steps.
        meta_after: part of the run, in [0, 1), that F and R train under P as it was drawn: how well
            they do says nothing before they have learned anything.
        even_start: P starts with its last layers at zero, hence with all weights at 1/2; otherwise
            they are drawn as published, near 1/2 but uneven, which F has to unlearn.
        auxiliary_steps: updates of the temporary psi' before P is judged.
        auxiliary_optimiser: of these; as inner_optimiser.
        damping: of mode ``"implicit"``.
        difference: of mode ``"mixed_difference"``.
        swap: trains both orders of the sources, (a, b) and (b, a).
        norm_floor: of the attention while training (see `systems.refusion.network.Config`); the
            shipped network has that of ``model``, 1e-12.
        black: examples with a source no pixel of which is as bright as this do not count; 0 counts
            all. At the start such a source has no attention but a huge gradient.
        frozen_weights: no P; all weights are 1/2.
    """

    auxiliary: dict[str, Any] = dataclasses.field(default_factory=dict)
    form: str = "R"
    outer: str = "reconstruction"
    intensity: float = 1.0
    gradient: float = 1.0
    ramp: bool = True
    reconstruction_intensity: float = 1.0
    reconstruction_gradient: float = 1.0
    inner_steps: int = 1
    inner_rate: float = 0.0
    inner_optimiser: str = "sgd"
    mode: str = "auto"
    trainable: tuple[str, ...] = ()
    meta_every: int = 1
    meta_after: float = 0.0
    even_start: bool = False
    auxiliary_steps: int = 1
    auxiliary_optimiser: str = "sgd"
    damping: float = 1.0
    difference: float = 0.01
    swap: bool = True
    norm_floor: float = 1e-3
    black: float = 0.01
    frozen_weights: bool = False

    def __post_init__(self):
        def demand(good: bool, field: str, wanted: str) -> None:
            if not good:
                raise InputError(f"recipe.{field} is {getattr(self, field)!r} and must be {wanted}")

        demand(self.form in FORMS, "form", "'R' or 'T'")
        for field in ("intensity", "gradient", "reconstruction_intensity"):
            demand(_number(getattr(self, field)), field, "a number of 0 or more")
        for field in ("reconstruction_gradient", "inner_rate", "black"):
            demand(_number(getattr(self, field)), field, "a number of 0 or more")
        demand(self.intensity + self.gradient > 0, "gradient", "above 0 where intensity is 0")
        demand(_number(self.meta_after) and self.meta_after < 1, "meta_after", "in [0, 1)")
        demand(self.black < 1, "black", "below 1, for images are in [0, 1]")
        demand(_number(self.norm_floor) and self.norm_floor > 0, "norm_floor", "above 0")
        for field, least in (("inner_steps", 1), ("meta_every", 1), ("auxiliary_steps", 0)):
            value = getattr(self, field)
            demand(type(value) is int and value >= least, field, f"a whole number from {least} on")
        modes = ("auto", *bilevel.MODES)
        demand(self.mode in modes, "mode", f"one of {', '.join(modes)}")
        texts = isinstance(self.trainable, tuple | list)
        texts = texts and all(_is_expression(e) for e in self.trainable)
        demand(texts, "trainable", "a tuple of regular expressions, () for all parameters")

    @property
    def bilevel_mode(self) -> str:
        """`mode` with ``"auto"`` decided."""
        if self.mode != "auto":
            return self.mode
        return "mixed_product" if self.inner_steps == 1 else "unrolled"


def _is_expression(text: Any) -> bool:
    """Whether it is a regular expression."""
    try:
        return isinstance(text, str) and bool(re.compile(text))
    except (re.error, RecursionError, OverflowError):
        return False


class Recipe(BaseRecipe, MetaRecipe):
    """Three networks, one phase, every step a meta-gradient for P and an update of F and R.

    ``L_f = intensity int + gradient grad``; with w, v from P,
    ``int = mean (w_a (a-f))^2 + mean (w_b (b-f))^2`` and, in form R, ``grad`` the same of the
    Sobel strengths with v; in form T, the distance to the signed gradients of the sources where
    they are larger, which P has no part in.

    The `model` block is about the fusion network: ``system`` (``"refusion"`` if left out),
    ``preset`` and any field of that system's `Config`. Networks of other systems get one channel a
    picture.

    Attributes:
        system: of the fusion network, which ships.
        auxiliary_config: `Config` of P and R.
        outer: what P is judged by, ``(psi, fused, batch) -> losses``.
    """

    system = "refusion"
    # Names that optimiser.networks may hold whether or not the other fields call for them.
    optional_networks = ("proposal", "reconstruction", "task")
    settings_type = Settings
    settings: Settings

    def __init__(self, model: Mapping[str, Any] | None = None, **settings: Any):
        super().__init__(model, **settings)
        self.auxiliary_config = self._read_auxiliary()
        coefficients = (
            self.settings.reconstruction_intensity,
            self.settings.reconstruction_gradient,
        )
        self.outer, psi = judges.read_outer(
            self.settings.outer, self.auxiliary_config, coefficients
        )
        self.meta = self._read_meta(psi)
        learned = () if self.settings.frozen_weights else ("proposal",)
        self.networks = ("fusion", *learned, *filter(None, (psi,)))
        self.phases = (Phase("meta", self.networks, kind="meta"),)
        self._training_config = self.model_config.for_training(self.settings.norm_floor)

    # ---- reading the config -------------------------------------------------------------------

    def read_model(self, fields: dict[str, Any]) -> Any:
        """The fusion network's `Config`; sets `system` to whose it is."""
        self.system = fields.pop("system", "refusion")  # type: ignore[misc]
        if self.system != "refusion":
            fields = {"in_channels": (1, 1), "out_channels": 1, **fields}
        config = super().read_model(fields)
        if tuple(config.in_channels) != (1, 1) or config.out_channels != 1:
            raise InputError("model must take two luminance images and give one")
        if config.dtype not in ("float32", "float64"):
            raise InputError(
                f"model.dtype is {config.dtype!r} and must be 'float32': meta-gradients are too"
                " small for fewer digits"
            )
        return config

    def _read_auxiliary(self) -> Config:
        """Configuration of P and R: that of F where F is ReFusion's, but for what is set."""
        fields = self.model_config.to_dict() if self.system == "refusion" else {}
        fields["proposal"] = "two_branch" if self.settings.form == "R" else "single"
        fields["norm_floor"] = self.settings.norm_floor
        return Config.from_dict({**fields, **dict(self.settings.auxiliary)})

    def _read_meta(self, psi: str) -> Meta:
        settings = self.settings
        mode = settings.bilevel_mode
        solver = bilevel.Solver(damping=settings.damping) if mode == "implicit" else None
        # Contradictions come out here, before anything is read or compiled.
        bilevel.check(
            steps=settings.inner_steps, mode=mode, difference=settings.difference, solver=solver
        )
        return Meta(
            inner="fusion",
            learns="" if settings.frozen_weights else "proposal",
            auxiliary=psi,
            optimiser=inner_optimiser(settings.inner_optimiser, "recipe.inner_optimiser"),
            rate=settings.inner_rate,
            steps=settings.inner_steps,
            mode=mode,
            every=settings.meta_every,
            after=settings.meta_after,
            trainable=tuple(settings.trainable) or None,
            auxiliary_optimiser=inner_optimiser(
                settings.auxiliary_optimiser, "recipe.auxiliary_optimiser"
            ),
            auxiliary_steps=settings.auxiliary_steps,
            difference=settings.difference,
            solver=solver,
        )

    # ---- the contract of every recipe ---------------------------------------------------------

    def init(self, key: jax.Array) -> tuple[Networks, Networks]:
        """Fresh ``(params, stats)`` by network name."""
        first, second, third = jax.random.split(key, 3)
        _, theta, stats = registry.initialise(self.system, self.model_config, first)
        params = {"fusion": theta}
        if not self.settings.frozen_weights:
            phi = registry.initialise("refusion", self.auxiliary_config, second, "ProposalNetwork")[
                1
            ]
            if self.settings.even_start:
                last = [name for name in phi if "last/" in name]
                phi = {**phi, **{name: jnp.zeros_like(phi[name]) for name in last}}
            params["proposal"] = phi
        if self.meta.auxiliary:
            params[self.meta.auxiliary] = self.outer.init(third)
        return params, {name: stats if name == "fusion" else {} for name in params}

    def loss(
        self,
        params: Networks,
        stats: Networks,
        batch: Batch,
        keys: jax.Array | None,
        phase: str = "meta",
        *,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, tuple[Networks, Metrics]]:
        """L_f as P has it now, P held fixed; without the swap in validation.

        Args:
            params: flat parameters by network.
            stats: running statistics by network.
            batch: ``a`` and ``b``, (B, h, w, 1) in [0, 1].
            keys: None for evaluation; otherwise not used.
            phase: there is one.
            axis_name: not used.
        """
        del phase, axis_name
        swap = self.settings.swap and keys is not None
        maps = lax.stop_gradient(self.propose(params.get("proposal", {}), batch, swap=swap))
        value, (_, new, metrics) = self.inner_loss(
            params["fusion"], stats["fusion"], maps, batch, 1.0, swap=swap
        )
        return value, ({**stats, "fusion": new}, metrics)

    def judge(
        self, params: Networks, stats: Networks, batch: Batch
    ) -> tuple[Metrics, list[Float[Array, "b h w 1"]]]:
        """What validation adds: ``outer_loss``, by which a learned loss is judged, and the maps.

        Losses under different weights do not compare; the outer loss does. The maps are the
        weights of the first source, of intensities and (form R) of gradients.
        """
        view = self._view(batch, swap=False)
        fused = self._fused(params["fusion"], stats["fusion"], view)[0]
        value = jnp.mean(self.outer(params.get(self.meta.auxiliary), fused, view.judged))
        maps = self.propose(params.get("proposal", {}), batch, swap=False)
        return {"outer_loss": value}, [weights[..., :1] for weights in maps.values()]

    def card(self) -> dict[str, Any]:
        """What the card of the shipped weights says about the loss they were trained with."""
        fields = dataclasses.asdict(self.settings)
        names = ("form", "outer", "intensity", "gradient", "ramp", "inner_steps", "inner_optimiser")
        shown = {name: fields[name] for name in names} | {"mode": self.meta.mode}
        return {"learned_loss": shown | {name: fields[name] for name in ("frozen_weights", "swap")}}

    # ---- what `training.meta_step` asks for ---------------------------------------------------

    def propose(self, phi: Flat, batch: Batch, *, swap: bool | None = None) -> Maps:
        """Weight maps of a batch: ``w`` of intensities and, in form R, ``v`` of gradients."""
        view = self._view(batch, swap)
        if self.settings.frozen_weights:
            half = jnp.full((*view.first.shape[:3], 2), 0.5, view.first.dtype)
            return {"w": half, "v": half} if self.settings.form == "R" else {"w": half}
        return functional.apply(self._graphdef("proposal"), phi, {}, view.first, view.second)[0]

    def adapted(self, theta: Flat, stats: Flat, batch: Batch) -> Array:
        """Fused images of the training form of F, (2B, h, w, 1) with the swap."""
        return self._fused(theta, stats, self._view(batch))[0]

    def inner_loss(
        self,
        theta: Flat,
        stats: Flat,
        maps: Maps,
        batch: Batch,
        progress: Any,
        *,
        swap: bool | None = None,
    ) -> tuple[jax.Array, tuple[Array, Flat, Metrics]]:
        """L_f of a batch.

        Args:
            theta: parameters of F.
            stats: its running statistics.
            maps: from `propose`, for the same batch.
            batch: ``a`` and ``b``.
            progress: part of the training done, in (0, 1]: how far the ramp is.
            swap: whether both orders are seen; None as configured.

        Returns:
            ``(loss, (fused, new statistics, {"int", "grad"}))``.
        """
        view = self._view(batch, swap)
        fused, new = self._fused(theta, stats, view)
        images = fused, view.first, view.second
        terms = {"int": weighted_intensity(*images, maps["w"])}
        if self.settings.form == "R":
            terms["grad"] = weighted_gradient(*images, maps["v"])
        else:
            terms["grad"] = losses.gradient_signed_max(*images)
        means = {name: jnp.mean(view.counts * value) for name, value in terms.items()}
        slope = self.settings.gradient * (progress if self.settings.ramp else 1.0)
        value = self.settings.intensity * means["int"] + slope * means["grad"]
        return value, (fused, new, means)

    def outer_loss(self, psi: Flat, fused: Array, batch: Batch) -> jax.Array:
        """What P is judged by: a scalar. ``fused`` is from `adapted` or `inner_loss`.

        The sources in the batch are not swapped: R sees one image and cannot know the order.
        """
        view = self._view(batch)
        value = jnp.asarray(self.outer(psi, fused, view.judged))
        return jnp.mean(view.counts * value) if value.ndim else value

    def auxiliary_loss(self, psi: Flat, fused: Array, batch: Batch) -> jax.Array:
        """What psi is trained on: the outer loss."""
        return self.outer_loss(psi, fused, batch)

    def _fused(self, theta: Flat, stats: Flat, view: "_View") -> tuple[Array, Flat]:
        graphdef = self._graphdef("fusion")
        (fused, _), new = functional.apply(graphdef, theta, stats, view.first, view.second)
        return fused, new

    def _view(self, batch: Batch, swap: bool | None = None) -> "_View":
        a, b = batch["a"], batch["b"]
        if a.shape[-1] != 1 or b.shape[-1] != 1:
            raise InputError("the learned loss is about luminance; set data.channels=1")
        brightest = jnp.minimum(jnp.max(a, (1, 2, 3)), jnp.max(b, (1, 2, 3)))
        counted = brightest >= self.settings.black
        # A factor of 0 alone would not do: gradients of black sources may overflow.
        a, b = (jnp.where(counted[:, None, None, None], x, jnp.float32(0.5)) for x in (a, b))
        judged = {**batch, "a": a, "b": b}
        counts = counted.astype(jnp.float32)
        if not (self.settings.swap if swap is None else swap):
            return _View(a, b, judged, counts)
        twice = {name: jnp.concatenate([x, x]) for name, x in judged.items()}
        first, second = jnp.concatenate([a, b]), jnp.concatenate([b, a])
        return _View(first, second, twice, jnp.concatenate([counts, counts]))

    def _graphdef(self, name: str) -> Any:
        if name == "fusion":  # as it trains, which is not quite as it is used
            return registry.graphdef(self.system, self._training_config)
        return registry.graphdef("refusion", self.auxiliary_config, "ProposalNetwork")


@dataclasses.dataclass(frozen=True)
class _View:
    """A batch as the networks see it.

    Attributes:
        first: first inputs; with the swap, a of all examples and then b.
        second: second inputs.
        judged: the batch, doubled with the swap, a and b in their own places.
        counts: 1 for examples that count, else 0. Losses are means over all examples, whatever
            counts, so that they do not depend on how a batch is laid out over devices.
    """

    first: Float[Array, "n h w 1"]
    second: Float[Array, "n h w 1"]
    judged: Batch
    counts: Float[Array, " n"]


def inner_optimiser(name: str, field: str) -> optax.GradientTransformation:
    """An Optax transformation at a learning rate of 1."""
    if name == "sgd":
        return optax.sgd(1.0)
    if name == "normalised_sgd":
        return optax.chain(bilevel.scale_by_length(), optax.scale(-1.0))
    if name == "adam":  # eps_root: the slope of sqrt(v) at v = 0 is part of the meta-gradient
        return optax.adam(1.0, eps_root=1e-16)
    make: Any = registry.named(name, field, OPTIMISERS)
    made = make(1.0)
    if not isinstance(made, optax.GradientTransformation):
        raise InputError(f"{field}: {name!r} must give an Optax transformation for a rate")
    return made


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
