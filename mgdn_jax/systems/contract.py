"""What a system promises: the contracts of its configuration, its network, its recipe, its data.

Training, fusing, conversion and evaluation rest on these members and discover nothing else. What
is optional has a default here. docs/extend/systems.md builds a system step by step.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import numpy as np
import optax
from flax import nnx

from mgdn_jax import bilevel
from mgdn_jax.errors import InputError
from mgdn_jax.layers.functional import Flat

Batch = Mapping[str, Any]
Networks = dict[str, Flat]
Metrics = dict[str, jax.Array]

CONTEXT, EXTENT = "context", "extent"
ABILITIES = {
    CONTEXT: "tiles of a large picture share the whole picture's sums",
    EXTENT: "pictures are padded to common sizes, which the network leaves out",
}
"""What `Network.takes` may name, and what it is good for.

- ``"context"``: the call has keywords ``context`` and ``pixel_weights``; ``aux["context"]`` holds
  sums over pixels, which a caller adds over tiles and hands back.
- ``"extent"``: the call has a keyword ``extent``, (B, 2) heights and widths; what lies beyond them
  has no effect on what lies inside.
"""


@runtime_checkable
class Config(Protocol):
    """A system's frozen configuration; `systems.config.SystemConfig` has all but the fields.

    Attributes:
        in_channels: channels of each input.
        out_channels: channels of the result.
    """

    in_channels: tuple[int, ...]
    out_channels: int

    @property
    def grid(self) -> int:
        """Sides that the network works on are multiples of this number of pixels."""

    @property
    def blends(self) -> bool:
        """Whether the result is a sum of the inputs with the weights in ``aux["weights"]``.

        They are (B, H, W, inputs), at least 0, and sum to one at every pixel. All inputs and the
        result have the same channels. Large pictures are then judged at a reduced size.
        """

    @property
    def scales(self) -> bool:
        """Whether those weights are meant for the details of every scale (`layers.pyramid`).

        What `blends` says then holds scale by scale, and the result may leave the inputs' range.
        """

    @property
    def sets(self) -> bool:
        """Whether any number of inputs, two or more, is taken in any order.

        All have the channels of the first. `in_channels` holds the least number.
        """

    @property
    def splits_chroma(self) -> bool:
        """Whether a network of colour fuses luminance where one picture is gray, another not.

        Chroma then passes beside it, as it does with networks of luminance.
        """

    @property
    def sees_whole(self) -> bool:
        """Whether a pixel of the result depends on all pixels, by means that tiles do not share."""

    def for_use(self) -> Config:
        """The same network without what only training needs."""

    def for_training(self, norm_floor: float) -> Config:
        """The same network whose attention divides by no norm below the floor."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-safe dictionary of all fields."""

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Config:
        """Inverse of `to_dict`."""


@runtime_checkable
class Network(Protocol):
    """A system's network, an `nnx.Module`: ``Network(config, *, rngs)``.

    Attributes:
        takes: keywords of the call beyond the images, of `ABILITIES`.
    """

    takes: ClassVar[frozenset[str]]

    def __init__(self, config: Any, *, rngs: nnx.Rngs) -> None: ...

    def __call__(self, *images: jax.Array, **abilities: Any) -> tuple[jax.Array, dict[str, Any]]:
        """``(fused, aux)`` from float images (B, H, W, C) in [0, 1], at any H and W."""


@runtime_checkable
class Loader(Protocol):
    """Training batches of one process; `config.data.loader` names a module that makes one.

    The module has ``make_loader(*, batch_size, seed, process_index, process_count, **fields)`` and,
    where something is held out, ``make_eval_loader`` alike, which returns an iterable of batches
    that have ``"_mask"`` too. A batch holds what the recipe reads and ``"_index"``, (B,) uint32.
    """

    dataset: Any

    def __next__(self) -> Mapping[str, np.ndarray]: ...

    def state(self) -> Mapping[str, Any]:
        """Position of the next batch, JSON-safe; the same on every process."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state` was taken."""

    def close(self) -> None:
        """Ends threads and closes files."""


@runtime_checkable
class PreparingLoader(Loader, Protocol):
    """A loader whose pictures measure something, and are prepared accordingly.

    Attributes:
        preparation: what is done to files before the network sees them, as `mgdn_jax.quantities`
            reads it; {} for pictures that are only brought to [0, 1]. Weights' cards hold it.
    """

    preparation: Mapping[str, Any]


@runtime_checkable
class MixedLoader(Loader, Protocol):
    """A loader that may read several data sets; the log says how often each was gone through.

    Attributes:
        sets: their names; () where there is one. Batches of several have ``"_set"``, (B,), which
            counts in this order; recipes do not get it.
    """

    sets: Sequence[str]

    def passes(self, batches: int) -> Mapping[str, float]:
        """How often each of several sets is gone through in so many batches; {} of one set."""


@runtime_checkable
class MixedEvaluation(Protocol):
    """Validation batches that may be of several data sets, each batch of one.

    Attributes:
        shares: how much each set counts in the figures of all, by name; {} where there is one.
            Batches of several have ``"_set"``, (B,), which counts in this order.
    """

    shares: Mapping[str, float]

    def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]: ...


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of training.

    Attributes:
        name: passed to the recipe's ``loss``.
        trains: networks that are updated.
        share: part of the duration that phases of a length in updates leave over; the shares of
            all phases sum to 1.
        kind: ``"plain"`` descends the recipe's ``loss``; ``"meta"`` learns the loss as well (of a
            `MetaRecipe`), ``"search"`` an architecture (`SearchRecipe`), ``"tasks"`` a starting
            point for several tasks (`TaskRecipe`). See `mgdn_jax.training.kinds`.
        steps: its length in updates, in place of a share, which is then 0.
    """

    name: str
    trains: tuple[str, ...]
    share: float = 1.0
    kind: str = "plain"
    steps: int = 0


@dataclasses.dataclass(frozen=True)
class Meta:
    """How a loss is learned: attribute ``meta`` of a recipe with a phase of kind ``"meta"``.

    Attributes:
        inner: network the learned loss trains (theta).
        learns: network that makes the loss (phi), ``""`` if nothing is learned.
        auxiliary: network the outer loss needs fitted (psi), ``""`` for none.
        optimiser: inner optimiser at a learning rate of 1.
        rate: inner learning rate; 0 takes the current one of the inner network.
        steps: inner steps K.
        mode: one of `bilevel.MODES`.
        every: one meta-gradient in so many training steps.
        after: part of the run, in [0, 1), before which there is none.
        trainable: expressions for the inner parameters that the inner steps adapt; None for all.
        auxiliary_optimiser: of the temporary psi', at a learning rate of 1.
        auxiliary_steps: updates from psi to psi'.
        difference: of the mode ``"mixed_difference"``.
        solver: of the mode ``"implicit"``.
    """

    inner: str
    learns: str
    auxiliary: str
    optimiser: optax.GradientTransformation
    rate: float = 0.0
    steps: int = 1
    mode: str = "unrolled"
    every: int = 1
    after: float = 0.0
    trainable: tuple[str, ...] | None = None
    auxiliary_optimiser: optax.GradientTransformation = dataclasses.field(
        default_factory=lambda: optax.sgd(1.0)
    )
    auxiliary_steps: int = 1
    difference: float = 0.01
    solver: bilevel.Solver | None = None


@dataclasses.dataclass(frozen=True)
class Search:
    """How an architecture is searched for: attribute ``search`` of a `SearchRecipe`.

    Attributes:
        weights: network that holds all choices (theta).
        architecture: network of logits (phi).
        mode: one of `bilevel.MODES`, but "implicit".
        rank_one: of the mode ``"rank_one"``; None for the derived form.
        rate: inner learning rate of the modes that take a step; 0 takes the weights' current one.
        steps: inner steps K of the mode "unrolled".
        difference: of the mode ``"mixed_difference"``.
        every: one step of the architecture in so many training steps.
        after: part of the run, in [0, 1), before which there is none.
    """

    weights: str
    architecture: str
    mode: str = "rank_one"
    rank_one: bilevel.RankOne | None = None
    rate: float = 0.0
    steps: int = 1
    difference: float = 0.01
    every: int = 1
    after: float = 0.0


@dataclasses.dataclass(frozen=True)
class Tasks:
    """How a starting point is learned: attribute ``tasks`` of a `TaskRecipe`.

    Attributes:
        network: whose starting point it is.
        names: of the tasks: the sets of the mixture in the loader's order, all of one share.
        mode: one of `bilevel.INITIALISATIONS`.
        steps: K of the adaptation.
        rate: its learning rate; 0 takes the network's current one.
    """

    network: str
    names: tuple[str, ...]
    mode: str = "first_order"
    steps: int = 1
    rate: float = 0.0


@dataclasses.dataclass(frozen=True)
class NoSettings:
    """The settings of a recipe that has none."""


@runtime_checkable
class Recipe(Protocol):
    """How a system is trained: ``Recipe(model, **settings)``.

    `model` is the config's `model` block, `settings` are the fields of its `recipe` block. A class
    `Recipe` derives from `systems.base.BaseRecipe`, which leaves only `loss` to be written where
    one network is trained.

    Attributes:
        system: name under which the system is found again (`registry.find`); weight files hold it.
        settings_type: frozen dataclass of the `recipe` block, with a default for every field.
        ships: the network that the weight file holds.
        networks: all networks that ever train.
        phases: stretches of training, in order.
        optional_networks: names that `optimiser.networks` may hold though nothing trains by them.
        meta: how the loss is learned, for phases of kind ``"meta"``.
        search: how an architecture is searched for, for phases of kind ``"search"``.
        tasks: how a starting point is learned, for phases of kind ``"tasks"``.
        best: the figure of validation that checkpoints are chosen by where the config names none;
            "" for psnr, or else loss.
        settings: instance of `settings_type`.
        model_config: the configuration of the network that ships.
    """

    system: ClassVar[str]
    settings_type: ClassVar[type] = NoSettings
    ships: str = "fusion"
    networks: tuple[str, ...] = ("fusion",)
    phases: tuple[Phase, ...] = (Phase("fusion", ("fusion",)),)
    optional_networks: tuple[str, ...] = ()
    meta: Meta | None = None
    search: Search | None = None
    tasks: Tasks | None = None
    best: str = ""
    settings: Any
    model_config: Any

    @abc.abstractmethod
    def init(self, key: jax.Array) -> tuple[Networks, Networks]:
        """Fresh ``(params, stats)`` by network."""

    @abc.abstractmethod
    def fuse(self, params: Networks, stats: Networks, *images: jax.Array) -> jax.Array:
        """Fused images of the network that ships, as it is used after training."""

    @abc.abstractmethod
    def loss(
        self,
        params: Networks,
        stats: Networks,
        batch: Batch,
        keys: jax.Array | None,
        phase: str,
        *,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, tuple[Networks, Metrics]]:
        """Mean loss of a batch: ``(loss, (new statistics, metrics))``.

        Args:
            params: flat parameters by network.
            stats: flat running statistics by network.
            batch: what the loader makes.
            keys: (B,) PRNG keys, one an example; None in validation: the network as it is used.
            phase: name of the phase.
            axis_name: mapped axis that the batch is spread over, for what takes statistics of the
                whole batch; means of examples need no care.
        """

    def sources(self, batch: Batch) -> list[Any]:
        """Input images of a batch in the network's order: ``a``, ``b``, ``c``."""
        return [batch[name] for name in "abcdefgh"[: len(self.model_config.in_channels)]]

    def judge(
        self, params: Networks, stats: Networks, batch: Batch
    ) -> tuple[Metrics, Sequence[jax.Array]]:
        """What validation adds: figures by name, and pictures (B, H, W, 1 or 3) to show."""
        del params, stats, batch
        return {}, []

    def display(self, batch: Batch, pictures: Sequence[Any]) -> list[Any]:
        """What the training's picture grid shows of a batch, each (B, H, W, 1 or 3) in [0, 1].

        Args:
            batch: of validation.
            pictures: the fused images, then those of `judge`.

        Returns:
            Columns from left to right: sources, pictures, and the target where there is one.
        """
        return [*self.sources(batch), *pictures, *([batch["target"]] if "target" in batch else [])]

    def join(self, params: Networks, stats: Networks) -> tuple[Flat, Flat]:
        """``(params, stats)`` of what ships."""
        return params[self.ships], stats[self.ships]

    def part(self, params: Flat, stats: Flat) -> tuple[Networks, Networks]:
        """Inverse of `join`: the networks that shipped weights are for."""
        return {self.ships: params}, {self.ships: stats}

    def proximal(
        self, network: str, rate: Callable[[Any], jax.Array]
    ) -> optax.GradientTransformation | None:
        """What follows a network's optimiser, for a part of the loss that is not smooth.

        Args:
            network: whose updates it takes.
            rate: learning rate by the number of updates so far.

        Returns:
            A transformation of the optimiser's updates; None for none.
        """
        del network, rate
        return None

    def shipped(self, params: Networks) -> Any:
        """The configuration of what ships; a search knows it when it has ended."""
        del params
        return self.model_config

    def card(self) -> dict[str, Any]:
        """What the card of the shipped weights says about how they were trained."""
        return {}


@runtime_checkable
class MetaRecipe(Recipe, Protocol):
    """A recipe whose loss is learned; all losses are means over the batch they get.

    phi makes the loss, theta is trained under it, psi is what the outer loss needs fitted.
    """

    meta: Meta

    @abc.abstractmethod
    def propose(self, phi: Flat, batch: Batch) -> Mapping[str, jax.Array]:
        """What the inner loss takes from phi: weight maps (B, h, w, sources) by name."""

    @abc.abstractmethod
    def adapted(self, theta: Flat, stats: Flat, batch: Batch) -> jax.Array:
        """Fused images of the training form of theta's network."""

    @abc.abstractmethod
    def inner_loss(
        self, theta: Flat, stats: Flat, maps: Any, batch: Batch, progress: Any
    ) -> tuple[jax.Array, tuple[jax.Array, Flat, Metrics]]:
        """``(loss, (fused, new statistics, terms))``; `progress` is the part of the run done."""

    @abc.abstractmethod
    def outer_loss(self, psi: Flat, fused: jax.Array, batch: Batch) -> jax.Array:
        """What phi is judged by, a scalar."""

    @abc.abstractmethod
    def auxiliary_loss(self, psi: Flat, fused: jax.Array, batch: Batch) -> jax.Array:
        """What psi is trained on, a scalar."""


@runtime_checkable
class SearchRecipe(Recipe, Protocol):
    """A recipe that searches an architecture; both losses are means over the batch they get."""

    search: Search

    @abc.abstractmethod
    def training_loss(
        self, theta: Flat, stats: Flat, phi: Flat, batch: Batch, *, axis_name: str | None
    ) -> tuple[jax.Array, tuple[Flat, Metrics]]:
        """``(loss, (new statistics, metrics))`` of the network of all choices."""

    @abc.abstractmethod
    def search_loss(
        self, theta: Flat, stats: Flat, phi: Flat, batch: Batch, *, axis_name: str | None
    ) -> jax.Array:
        """What the architecture is judged by: that loss with what choices cost, a scalar."""


@runtime_checkable
class TaskRecipe(Recipe, Protocol):
    """A recipe that learns a starting point for several tasks.

    In validation its `loss` finds the task of a batch as ``_task``, (B,) of one number.
    """

    tasks: Tasks

    @abc.abstractmethod
    def task_loss(
        self, theta: Flat, stats: Flat, batch: Batch, task: jax.Array, *, axis_name: str | None
    ) -> tuple[jax.Array, tuple[Flat, Metrics]]:
        """``(loss, (new statistics, metrics))`` of a task, whose number is traced: int32, ()."""


def warm_start(
    recipe: Recipe, params: Flat, stats: Flat, networks: Networks, statistics: Networks
) -> tuple[Networks, Networks]:
    """Fresh networks, those that ship replaced by weights.

    Args:
        recipe: knows which networks ship (`Recipe.part`).
        params: flat parameters of a weight file.
        stats: its running statistics.
        networks: fresh parameters by network.
        statistics: fresh running statistics by network.

    Raises:
        InputError: the weights are of another shape (network and array are named), or the recipe
            cannot tell which of its networks they are.
    """
    if type(recipe).join is not Recipe.join and type(recipe).part is Recipe.part:
        raise InputError("the recipe joins networks and has no `part` to undo that.")
    parts, part_stats = recipe.part(params, stats)
    for name in parts:
        for fresh, stored in ((networks, parts), (statistics, part_stats)):
            misfits = _misfits(fresh[name], stored[name])
            if misfits:
                raise InputError(
                    "holds a network of another shape than the config's model"
                    f" ({name}: {len(misfits)} arrays differ, {misfits[0]} first); make `model`"
                    " that of the weights' card."
                )
    return {**networks, **parts}, {**statistics, **part_stats}


def _misfits(fresh: Flat, stored: Flat) -> list[str]:
    """Names of arrays that one side lacks, or that differ in shape."""
    shapes, stored_shapes = ({k: v.shape for k, v in flat.items()} for flat in (fresh, stored))
    names = sorted(shapes.keys() | stored_shapes.keys())
    return [name for name in names if shapes.get(name) != stored_shapes.get(name)]
