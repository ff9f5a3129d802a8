"""The tiles of a picture through a network, and what comes out put together again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mgdn_jax.fusing import tiling

Run = Callable[[list[np.ndarray]], np.ndarray]
"""Pictures of one tile, as they are stored -> (h, w, C) float32, what the network makes of them."""
Measure = Callable[[list[np.ndarray], np.ndarray], dict[str, np.ndarray]]
"""Pictures of one tile and (h, w) weights of its pixels -> sums over the pixels, by name."""
Write = Callable[[slice, np.ndarray], None]
"""Rows of the picture that are complete, and their values, (rows, W, C) float32."""
Tick = Callable[[], None]


def sums(
    pictures: Sequence[np.ndarray],
    plan: tiling.Plan,
    measure: Measure,
    tick: Tick,
    weights: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Sums over all pixels of a picture, each counted in the one tile that owns it.

    Args:
        pictures: (H, W, C) each.
        plan: how they are cut.
        measure: sums of one tile.
        tick: called after each tile.
        weights: (H, W) weight of each pixel, 0 where a picture has none; None weighs all alike.

    Returns:
        Name to float32 array; empty where the network sums nothing.
    """
    total: dict[str, np.ndarray] = {}
    for i in range(len(plan.rows.starts)):
        for j in range(len(plan.columns.starts)):
            owned = plan.rows.owned[i][:, None] * plan.columns.owned[j][None]
            if weights is not None:
                owned = owned * weights[plan.positions(i, j)].astype(np.float32)
            # A tile without weight has no means of its own to go on with.
            if owned.any():
                for name, value in measure(_tile(pictures, plan, i, j), owned).items():
                    total[name] = total.get(name, 0.0) + np.asarray(value, np.float64)
            tick()
    return {name: np.asarray(value, np.float32) for name, value in total.items()}


def assemble(
    pictures: Sequence[np.ndarray], plan: tiling.Plan, run: Run, write: Write, tick: Tick
) -> None:
    """Blends the results of all tiles, and hands rows on as soon as they are complete.

    Holds one row of tiles in floats, whatever the height of the picture.

    Args:
        pictures: (H, W, C) each.
        plan: how they are cut.
        run: the network on one tile.
        write: takes the rows, from top to bottom.
        tick: called after each tile.
    """
    if plan.tiles == 1:
        piece = run(_tile(pictures, plan, 0, 0))
        tick()
        write(slice(0, plan.height), piece[: plan.height, : plan.width])
        return
    size, starts = plan.rows.size, plan.rows.starts
    band: np.ndarray | None = None
    for i, top in enumerate(starts):
        for j, left in enumerate(plan.columns.starts):
            piece = run(_tile(pictures, plan, i, j))
            if band is None:
                band = np.zeros((size, plan.padded[1], piece.shape[-1]), np.float32)
            weights = plan.rows.weights[i][:, None] * plan.columns.weights[j][None]
            band[:, left : left + plan.columns.size] += weights[..., None] * piece
            tick()
        assert band is not None
        # Rows above the next tile are complete: store them and let the rest move up.
        is_last = i + 1 == len(starts)
        complete = size if is_last else starts[i + 1] - top
        bottom = min(top + complete, plan.height)
        if bottom > top:
            write(slice(top, bottom), band[: bottom - top, : plan.width])
        if not is_last:
            band[: size - complete] = band[complete:].copy()
            band[size - complete :] = 0


def _tile(pictures: Sequence[np.ndarray], plan: tiling.Plan, i: int, j: int) -> list[np.ndarray]:
    return [x[plan.positions(i, j)] for x in pictures]
