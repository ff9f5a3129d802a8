"""`mgdn fuse --cluster`: folders of pictures on a cluster of Ray."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console

from mgdn_jax.cli import progress
from mgdn_jax.cli.output import complain, print_json, tell
from mgdn_jax.cli.settings import Settings
from mgdn_jax.errors import InputError
from mgdn_jax.weights import zoo


def fuse(settings: Settings) -> int:
    """Fuses folders on a cluster.

    Args:
        settings: of the command.

    Returns:
        0, or 1 if a pair failed or lacked its partner.

    Raises:
        InputError: nothing could be done.
    """
    assert settings.cluster is not None
    _check(settings)
    weights = zoo.resolve(settings.model)
    from mgdn_jax.fusing import loading
    from mgdn_jax.serving import ray as cluster

    options = settings.options.otherwise(settings.usual(True))
    words = {name: v for name, v in dataclasses.asdict(options).items() if v is not None}
    is_silent = settings.is_quiet or settings.is_json
    with _shown(is_silent) as take:
        outcome = cluster.fuse_folders(
            *settings.inputs,
            output=settings.output,
            model=loading.read(weights, system=settings.system, trust=settings.trust),
            address=settings.cluster or None,
            batch=settings.batch,
            progress=take,
            **words,
        )
    if settings.is_json:
        print_json(dataclasses.asdict(outcome) | {"output": os.fspath(outcome.output)})
    elif not settings.is_quiet:
        if outcome.rule:
            tell(f"names   {outcome.rule}")
        tell(f"result  {outcome.output}")
        tell(f"done    {outcome}")
    for sentence in outcome.failed.values():
        complain(sentence)
    return 1 if outcome.failed else 0


@contextlib.contextmanager
def _shown(is_silent: bool) -> Iterator[Callable[[int, int], None]]:
    """Shows how far the cluster is: in one line at a terminal, in a line now and then elsewhere.

    Yields:
        What takes the pairs done and the pairs in all.
    """
    words = ["starting workers"]
    console = Console(stderr=True)
    with contextlib.ExitStack() as stack:
        status = None
        if console.is_terminal and not is_silent:
            status = stack.enter_context(console.status(words[0]))
        stack.enter_context(progress.waiting(lambda: words[0], is_silent=is_silent))

        def take(done: int, total: int) -> None:
            words[0] = f"fused {done} of {total} pairs"
            if status is not None:
                status.update(words[0])

        yield take


def _check(settings: Settings) -> None:
    """Refuses what makes no sense for data sets.

    Raises:
        InputError: files in place of folders, or an option for single results.
    """
    for name in settings.inputs:
        if os.path.exists(name) and not os.path.isdir(name):
            raise InputError(f"{name} is no folder; --cluster fuses folders of pictures.")
    options: dict[str, Any] = {
        "score": settings.has_scores,
        "depth-map": settings.depth_map,
        "save-transforms": settings.transforms,
        "frames": settings.frames,
        "offset": settings.offset,
    }
    for option, value in options.items():
        if value:
            raise InputError(f"--{option} does not go with --cluster; leave it out.")
