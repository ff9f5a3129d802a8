"""Training TIM: a network of given primitives, a search for primitives, a start for many tasks.

How the published networks were trained is not known. What is theirs here is the form of the search
gradient (`bilevel.RankOne`); supernet, losses, schedules and the algorithm of the initialisation
are ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from mgdn_jax import bilevel
from mgdn_jax.errors import InputError
from mgdn_jax.layers import functional
from mgdn_jax.layers.functional import Flat
from mgdn_jax.layers.mode import EVAL, Mode
from mgdn_jax.systems import registry
from mgdn_jax.systems.base import BaseRecipe
from mgdn_jax.systems.contract import (
    Batch,
    Metrics,
    Networks,
    Phase,
    Search,
    SearchRecipe,
    TaskRecipe,
    Tasks,
)
from mgdn_jax.systems.tim import latency, losses, primitives
from mgdn_jax.systems.tim.primitives import PRIMITIVES
from mgdn_jax.systems.tim.supernet import Supernet

FORMS = ("train", "search", "tasks")
RANK_ONES = ("derived", "published", "first_order")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The `recipe` block.

    Attributes:
        form: ``"train"`` the network of ``model``; ``"search"`` for the primitives of its chain
            cells, of which only the number counts; ``"tasks"``: for a start of that network from
            which several tasks are learned soon.
        intensity: weight of the intensities.
        intensity_rule: of `losses.RULES`.
        gradient: weight of the slopes.
        ssim: weight of the structure.
        choices: primitives that a search chooses from.
        search_mode: gradient of the logits, of `bilevel.MODES` but ``"implicit"``.
        rank_one: of mode ``"rank_one"``: ``"derived"`` from the implicit function theorem,
            ``"published"`` (the other sign, times ``search_rate``), or ``"first_order"`` (none).
        search_rate: inner learning rate; 0 takes the weights' current one, but not for
            ``"published"``, whose gradient it is a factor of.
        search_after: part of the run in which the logits stay, so that weights come first.
        latency: weight of the expected cost of a cell, in units of the dearest one.
        latencies: milliseconds by primitive; {} measures them on this machine once.
        entropy: weight of the logits' mean entropy (of 1) in the search loss, so that a search
            ends with a choice.
        tasks: rule of the intensities by task; the sets of ``data.mix``.
        task_mode: of `bilevel.INITIALISATIONS`.
        task_steps: K of the adaptation.
        task_rate: its learning rate; 0 takes the network's current one.
    """

    form: str = "train"
    intensity: float = 4.0
    intensity_rule: str = "sum"
    gradient: float = 4.0
    ssim: float = 1.0
    choices: tuple[str, ...] = PRIMITIVES
    search_mode: str = "rank_one"
    rank_one: str = "derived"
    search_rate: float = 0.0
    search_after: float = 0.0
    latency: float = 0.0
    latencies: dict[str, float] = dataclasses.field(default_factory=dict)
    entropy: float = 0.0
    tasks: dict[str, str] = dataclasses.field(default_factory=dict)
    task_mode: str = "first_order"
    task_steps: int = 1
    task_rate: float = 0.0

    def __post_init__(self):
        for name in (
            *("intensity", "gradient", "ssim", "latency", "entropy"),
            *("search_rate", "task_rate"),
        ):
            if not getattr(self, name) >= 0:
                raise InputError(f"recipe.{name} is {getattr(self, name)} and must be 0 or more")
        if not self.intensity + self.gradient + self.ssim:
            raise InputError("recipe has no loss: set intensity, gradient or ssim above 0")
        choices: dict[str, tuple[str, ...]] = {
            "form": FORMS,
            "intensity_rule": losses.RULES,
            "rank_one": RANK_ONES,
            "task_mode": bilevel.INITIALISATIONS,
            "search_mode": tuple(mode for mode in bilevel.MODES if mode != "implicit"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                value = getattr(self, name)
                raise InputError(f"recipe.{name} is {value!r}; it is one of {', '.join(known)}")
        for name in self.choices:
            primitives.check(name)
        self._check_search()
        for task, rule in self.tasks.items():
            if rule not in losses.RULES:
                rules = ", ".join(losses.RULES)
                raise InputError(f"recipe.tasks.{task} is {rule!r}; it is one of {rules}")
        if self.form == "tasks" and not self.tasks:
            raise InputError("recipe.tasks is empty; name the sets of data.mix with their rules")
        if self.task_steps < 1:
            raise InputError(f"recipe.task_steps is {self.task_steps} and must be 1 or more")
        if not 0 <= self.search_after < 1:
            raise InputError(f"recipe.search_after is {self.search_after} and must be in [0, 1)")

    def _check_search(self) -> None:
        twice = [name for name in self.choices if self.choices.count(name) > 1]
        if twice:
            raise InputError(f"recipe.choices names {twice[0]!r} twice")
        if self.form == "search" and len(self.choices) < 2:
            raise InputError("recipe.choices names one primitive; a search needs two or more")
        lacking = [name for name in self.choices if self.latencies and name not in self.latencies]
        if lacking:
            raise InputError(f"recipe.latencies lacks {lacking[0]!r}; give all choices, or none")
        wrong = [name for name, value in self.latencies.items() if not 0 < value < np.inf]
        if wrong:
            value = self.latencies[wrong[0]]
            raise InputError(f"recipe.latencies.{wrong[0]} is {value} and must be above 0")
        if self.rank_one == "published" and not self.search_rate:
            raise InputError(
                "recipe.search_rate is 0, and the published gradient has it as a factor; give it, "
                "e.g. the weights' learning rate"
            )


class _Able(SearchRecipe, TaskRecipe, Protocol):
    """Both abilities; which one is used is a setting."""


class Recipe(BaseRecipe, _Able):
    """One recipe of three forms."""

    system = "tim"
    settings_type = Settings
    settings: Settings

    def __init__(self, model: Mapping[str, Any] | None = None, **settings: Any):
        super().__init__(model, **settings)
        chosen = self.settings
        if chosen.form == "search":
            self._read_search()
        elif chosen.form == "tasks":
            names = tuple(sorted(chosen.tasks))
            self.tasks = Tasks(
                "fusion", names, chosen.task_mode, chosen.task_steps, chosen.task_rate
            )
            self._rules = np.asarray([losses.RULES.index(chosen.tasks[n]) for n in names])
            self.phases = (Phase("tasks", ("fusion",), kind="tasks"),)

    def _read_search(self) -> None:
        settings, config = self.settings, self.model_config
        if config.pyramid or config.enhancement != "none" or not config.chains:
            raise InputError(
                "a search is for chain cells alone; take model.preset='small', or set"
                " model.pyramid=() and model.enhancement='none'"
            )
        form = {
            "derived": bilevel.RankOne.derived(),
            "published": bilevel.RankOne.published(settings.search_rate),
            "first_order": bilevel.RankOne(factor=0.0),
        }[settings.rank_one]
        ranked = settings.search_mode == "rank_one"
        bilevel.check(mode=settings.search_mode, rank_one=form if ranked else None)
        self.search = Search(
            weights="supernet",
            architecture="architecture",
            mode=settings.search_mode,
            rank_one=form if ranked else None,
            rate=settings.search_rate,
            after=settings.search_after,
        )
        self.networks = ("supernet", "architecture")
        self.phases = (Phase("search", self.networks, kind="search"),)
        self._costs = self._relative_costs()
        self._graphdef, self._outline, _ = functional.abstract(self._build)

    def _build(self, key: Any = None) -> Supernet:
        rngs = functional.Rngs(0 if key is None else key)
        return Supernet(self.model_config, self.settings.choices, rngs=rngs)

    def _relative_costs(self) -> np.ndarray:
        """Latency of each choice over the largest one."""
        settings = self.settings
        if not settings.latency:
            return np.zeros(len(settings.choices), np.float32)
        table = dict(settings.latencies) or latency.latencies(
            settings.choices, self.model_config.features
        )
        costs = np.asarray([table[name] for name in settings.choices], np.float32)
        return costs / costs.max()

    # ---- what every form has ---------------------------------------------------------------

    def init(self, key: jax.Array) -> tuple[Networks, Networks]:
        """Fresh ``(params, stats)``; logits start at 0, where all choices have equal shares."""
        if self.search is None:
            return super().init(key)
        _, params, stats = functional.split(self._build(key))
        places = len(self.model_config.chain)
        logits = jnp.zeros((places, len(self.settings.choices)), jnp.float32)
        networks = {"supernet": params, "architecture": {"logits": logits}}
        return networks, {"supernet": stats, "architecture": {}}

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
        """Mean loss of a batch, the running statistics after it, and the three terms.

        Args:
            params: flat parameters by network.
            stats: running statistics by network.
            batch: ``a`` and ``b``, (B, h, w, 1) in [0, 1]; of one of several tasks also its
                number, ``_task`` (B,).
            keys: (B,) keys in training, of which none is used; None runs the network as it is used,
                a search's with the primitives that lead.
            phase: there is one.
            axis_name: mapped axis whose devices share the batch.

        Raises:
            InputError: images are not luminance.
        """
        del phase
        mode = Mode(training=keys is not None, axis_name=axis_name)
        name = "fusion" if self.search is None else "supernet"
        phi = params.get("architecture", {})
        rule: Any = self.settings.intensity_rule
        if "_task" in batch:  # in validation, where a batch is of one
            rule = jnp.asarray(self._rules)[batch["_task"][0]]
        value, new, metrics = self._loss(params[name], stats[name], phi, batch, rule, mode)
        return value, ({**stats, name: new}, metrics)

    def _loss(
        self, theta: Flat, stats: Flat, phi: Flat, batch: Batch, rule: Any, mode: Mode
    ) -> tuple[jax.Array, Flat, Metrics]:
        a, b = self.luminance_sources(batch)
        fused, new = self._fused(theta, stats, phi, a, b, mode)
        wanted = losses.target(a, b, rule)
        found = losses.terms(fused, a, b, wanted)
        metrics = {name: jnp.mean(value) for name, value in found.items()}
        total = jnp.asarray(
            sum(getattr(self.settings, name) * value for name, value in metrics.items())
        )
        return total, new, metrics

    def _fused(
        self, theta: Flat, stats: Flat, phi: Flat, a: jax.Array, b: jax.Array, mode: Mode
    ) -> tuple[jax.Array, Flat]:
        if self.search is None:
            graphdef = registry.graphdef(self.system, self.model_config)
            (fused, _), new = functional.apply(graphdef, theta, stats, a, b, mode=mode)
            return fused, new
        first, second = (a, b) if self.model_config.initial_order == "ab" else (b, a)
        shares = jax.nn.softmax(phi["logits"], -1)
        if not mode.training:  # what ships has one primitive at each place
            shares = jax.nn.one_hot(jnp.argmax(phi["logits"], -1), shares.shape[-1])
        return functional.apply(self._graphdef, theta, stats, first, second, shares, mode)

    def fuse(self, params: Networks, stats: Networks, *images: jax.Array) -> jax.Array:
        """Fused images; of a search, by the primitives that lead."""
        name = "fusion" if self.search is None else "supernet"
        phi = params.get("architecture", {})
        a, b = images
        return self._fused(params[name], stats[name], phi, a, b, EVAL)[0]

    # ---- the search ------------------------------------------------------------------------

    def training_loss(
        self, theta: Flat, stats: Flat, phi: Flat, batch: Batch, *, axis_name: str | None
    ) -> tuple[jax.Array, tuple[Flat, Metrics]]:
        """The loss of the network of all choices; metrics hold the shares, place by place."""
        mode = Mode(training=True, axis_name=axis_name)
        rule = self.settings.intensity_rule
        value, new, metrics = self._loss(theta, stats, phi, batch, rule, mode)
        shares = jax.nn.softmax(phi["logits"], -1)
        for place in range(shares.shape[0]):
            for number, name in enumerate(self.settings.choices):
                metrics[f"share.{place}.{name}"] = shares[place, number]
        metrics["cost"] = self._cost(shares)
        return value, (new, metrics)

    def search_loss(
        self, theta: Flat, stats: Flat, phi: Flat, batch: Batch, *, axis_name: str | None
    ) -> jax.Array:
        """The same loss, with what the choices cost and how undecided they are."""
        mode = Mode(training=True, axis_name=axis_name)
        value = self._loss(theta, stats, phi, batch, self.settings.intensity_rule, mode)[0]
        shares = jax.nn.softmax(phi["logits"], -1)
        spread = -jnp.sum(shares * jnp.log(shares + 1e-12), -1) / np.log(shares.shape[-1])
        return (
            value
            + self.settings.latency * self._cost(shares)
            + (self.settings.entropy * jnp.mean(spread))
        )

    def _cost(self, shares: jax.Array) -> jax.Array:
        """Expected latency of a place over that of the dearest choice."""
        return jnp.mean(jnp.sum(shares * jnp.asarray(self._costs)[None], -1))

    def genotype(self, params: Networks) -> tuple[str, ...]:
        """The primitives of the largest logits, place by place."""
        logits = np.asarray(params["architecture"]["logits"])
        return tuple(self.settings.choices[number] for number in logits.argmax(-1))

    def shipped(self, params: Networks) -> Any:
        """The configuration with the primitives that a search found."""
        if self.search is None:
            return self.model_config
        return dataclasses.replace(self.model_config, chain=self.genotype(params))

    def join(self, params: Networks, stats: Networks) -> tuple[Flat, Flat]:
        """``(params, stats)`` of what ships; of a search, the chosen primitives' weights."""
        if self.search is None:
            return super().join(params, stats)
        numbers = np.asarray(params["architecture"]["logits"]).argmax(-1)
        return self._chosen(params["supernet"], numbers), self._chosen(stats["supernet"], numbers)

    def part(self, params: Flat, stats: Flat) -> tuple[Networks, Networks]:
        """Inverse of `join`; not of a search, which chose among more than what ships.

        Raises:
            InputError: the recipe searches.
        """
        if self.search is not None:
            raise InputError(
                "a search begins with all primitives and not with a network of chosen ones; leave"
                " train.init empty."
            )
        return super().part(params, stats)

    def _chosen(self, weights: Flat, numbers: np.ndarray) -> Flat:
        """Weights of the supernet under the names of the network of chosen primitives."""
        chosen = {}
        for path, value in weights.items():
            parts = path.split("/")
            if "mixed" in parts:  # cells/CELL/mixed/PLACE/operations/NUMBER/...
                cell, place, number, rest = parts[1], int(parts[3]), int(parts[5]), parts[6:]
                if number != numbers[place]:
                    continue
                parts = ["cells", cell, "operations", str(place), *rest]
            chosen["/".join(["initial", *parts])] = value
        return chosen

    # ---- a start for several tasks ---------------------------------------------------------

    def task_loss(
        self, theta: Flat, stats: Flat, batch: Batch, task: jax.Array, *, axis_name: str | None
    ) -> tuple[jax.Array, tuple[Flat, Metrics]]:
        """The loss of a task: the rule of its intensities is its own."""
        mode = Mode(training=True, axis_name=axis_name)
        rule = jnp.asarray(self._rules)[task]
        value, new, metrics = self._loss(theta, stats, {}, batch, rule, mode)
        return value, (new, metrics)
