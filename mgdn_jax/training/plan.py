"""A run laid out in steps: phases, shares of a batch, and an optimiser for each network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import optax

from mgdn_jax.errors import InputError, nearest
from mgdn_jax.systems.contract import Phase
from mgdn_jax.training.config import Optimiser, Train, optimiser_of
from mgdn_jax.training.optimisers import Schedule, make_optimiser, make_schedule


def share(
    train: Train, devices: int, processes: int, *, halves: bool = False, tasks: int = 1
) -> tuple[int, int]:
    """Examples per process and per device of one batch.

    Args:
        train: the `train` block.
        devices: local devices of each process.
        processes: number of processes.
        halves: whether each device must be able to halve its share (a phase of kind "meta").
        tasks: how many tasks a device has two halves of.

    Returns:
        `(per process, per device)`.

    Raises:
        InputError: the batch does not divide, or halves would be accumulated.
    """
    if halves and train.accumulate > 1:
        raise InputError(
            f"config field 'train.accumulate' is {train.accumulate} and must be 1 where the loss is"
            " learned; use a smaller train.batch or more devices."
        )
    parts = devices * processes * (2 * tasks if halves else train.accumulate)
    if train.batch % parts:
        factor = "2 halves" if halves else f"train.accumulate={train.accumulate}"
        if tasks > 1:
            factor = f"2 halves of {tasks} tasks"
        raise InputError(
            f"config field 'train.batch' is {train.batch} and does not divide by {parts}"
            f" ({processes} processes x {devices} devices x {factor});"
            f" use {max(1, train.batch // parts) * parts}, or fewer devices by train.devices."
        )
    return train.batch // processes, train.batch // processes // devices


@dataclasses.dataclass(frozen=True)
class Stretch:
    """A phase as steps: from `start` (included) to `stop` (excluded)."""

    phase: str
    trains: tuple[str, ...]
    start: int
    stop: int
    kind: str = "plain"


def stretches(phases: Sequence[Phase], total: int) -> list[Stretch]:
    """A recipe's phases laid over `total` steps, in order and without gaps.

    Args:
        phases: their shares are relative to the sum of all shares, and of what lengths in steps
            leave over. A run that is shorter than these ends with the phases that fit.
        total: steps in the whole run.
    """
    whole = sum(phase.share for phase in phases) or 1.0
    left = total - sum(phase.steps for phase in phases)
    laid: list[Stretch] = []
    done, share, fixed = 0, 0.0, 0
    for phase in phases:
        share, fixed = share + phase.share, fixed + phase.steps
        stop = min(fixed + round(max(left, 0) * share / whole), total)
        laid.append(Stretch(phase.name, tuple(phase.trains), done, stop, phase.kind))
        done = stop
    return laid


def optimisers(
    settings: Optimiser,
    plan: Sequence[Stretch],
    *,
    every: Mapping[str, int] | None = None,
    waits: Mapping[str, int] | None = None,
    optional: Sequence[str] = (),
    proximal: Callable[[str, Schedule], optax.GradientTransformation | None] | None = None,
) -> tuple[dict[str, optax.GradientTransformation], dict[str, Schedule]]:
    """One optimiser and one schedule for every network that ever trains.

    A network's schedule spans the steps in which it trains; its own update count drives it.

    Args:
        settings: the `optimiser` block.
        plan: as from `stretches`.
        every: networks that are updated in one of so many of the steps in which they train.
        waits: networks that are not updated in the first so many steps of the run.
        optional: names that `settings.networks` may hold though they do not train.
        proximal: what follows the optimiser of a network, as `systems.contract.Recipe.proximal`.

    Returns:
        `({network: Optax transformation}, {network: schedule})`; the schedules count steps.

    Raises:
        InputError: the warm-up is longer than a network trains, or `settings.networks` names a
            network that there is not.
    """
    trained = dict.fromkeys(name for stretch in plan for name in stretch.trains)
    for name in settings.networks:
        if name not in trained and name not in optional:
            raise InputError(
                f"config field 'optimiser.networks' names {name!r}, which is no network of the"
                f" recipe; {nearest(name, trained)}"
            )
    transformations, schedules = {}, {}
    for network in trained:
        block = optimiser_of(settings, network)
        wait = (waits or {}).get(network, 0)
        steps = sum(max(0, s.stop - max(s.start, wait)) for s in plan if network in s.trains)
        if block.warmup > steps:
            raise InputError(
                f"config field 'optimiser.warmup' is {block.warmup} and {network!r} trains for"
                f" {steps} steps; lower it."
            )
        schedules[network] = schedule = make_schedule(
            block.schedule,
            learning_rate=block.learning_rate,
            total_steps=steps,
            warmup_steps=block.warmup,
            end_factor=block.end_factor,
            milestones=block.milestones,
            gamma=block.gamma,
        )
        rate = _spaced(schedule, (every or {}).get(network, 1))
        optimiser = make_optimiser(
            block.name,
            rate,
            weight_decay=block.weight_decay,
            clip_norm=block.clip_norm,
            clip_offset=block.clip_offset,
            b1=block.b1,
            b2=block.b2,
            momentum=block.momentum,
        )
        last = proximal(network, rate) if proximal is not None else None
        transformations[network] = optimiser if last is None else optax.chain(optimiser, last)
    return transformations, schedules


def _spaced(schedule: Schedule, every: int) -> Schedule:
    """A schedule over steps as one over updates, of which there is one in `every` steps."""
    return schedule if every == 1 else lambda count: schedule(count * every)


def updates(plan: Sequence[Stretch], network: str, step: int) -> int:
    """How often a network has been updated in the first `step` steps of the run."""
    spans = [(s.start, min(s.stop, step)) for s in plan if network in s.trains]
    return sum(max(0, stop - start) for start, stop in spans)
