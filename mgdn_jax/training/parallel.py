"""How a step is spread over devices: by `jax.pmap`, or by `jax.jit` over a mesh.

Both run the same step with the same named axis, and give every device the same examples. So a run
may go on by the other way. This is the only room that knows of `jax.pmap`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mgdn_jax.training.state import Step

AXIS = "data"
"""Name of the mapped axis that a batch is spread over."""

Tree = TypeVar("Tree")
HostBatch = Mapping[str, np.ndarray]


class Parallel(Protocol):
    """A way to spread a step over the devices of all processes."""

    def replicate(self, tree: Tree) -> Tree:
        """A pytree of arrays that are the same in every process, as a copy on every device."""

    def split(self, batch: HostBatch) -> dict[str, Any]:
        """The arrays of this process's share of a batch as a mapped step takes them.

        Args:
            batch: arrays (B / processes, ...). Of "_set" the step knows nothing.

        Raises:
            ValueError: the share does not divide by the devices.
        """

    def train(self, step: Step) -> Callable[..., Any]:
        """A step ``(state, batch) -> (state, metrics)`` over all devices; it donates the state."""

    def evaluate(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """A validation step ``(params, stats, batch) -> (sums, pictures)`` over all devices."""

    def rows(self, pictures: jax.Array) -> np.ndarray:
        """Pictures of `evaluate` that belong to this process's share, (B / processes, ...)."""


class ByPmap:
    """`jax.pmap` over state that each process holds as one replicated array.

    Args:
        devices: of this process.
        is_part: whether they are fewer than the process has.
    """

    def __init__(self, devices: Sequence[jax.Device], *, is_part: bool):
        self._count = len(devices)
        self._devices = list(devices) if is_part else None
        self._sharding = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec())

    def replicate(self, tree: Tree) -> Tree:
        """See `Parallel`."""
        return jax.device_put(tree, self._sharding)

    def split(self, batch: HostBatch) -> dict[str, Any]:
        """(B, ...) -> (devices, B / devices, ...); raises where pmap would silently use fewer."""
        return {
            name: value.reshape(self._count, len(value) // self._count, *value.shape[1:])
            for name, value in batch.items()
            if name != "_set"
        }

    def train(self, step: Step) -> Callable[..., Any]:
        """See `Parallel`."""
        return self._map(step, in_axes=(None, 0), out_axes=None, donate_argnums=0)

    def evaluate(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """See `Parallel`."""
        return self._map(step, in_axes=(None, None, 0), out_axes=(None, 0))

    def _map(self, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        return jax.pmap(function, axis_name=AXIS, devices=self._devices, **options)

    def rows(self, pictures: jax.Array) -> np.ndarray:
        """See `Parallel`."""
        return np.asarray(pictures).reshape(-1, *pictures.shape[2:])


class ByMesh:
    """`jax.jit` of `jax.shard_map` over one mesh of all devices of all processes.

    The mesh has one axis. State is replicated over it, a batch is cut along it.

    Args:
        devices: of this process.
        is_part: whether they are fewer than the process has.
    """

    def __init__(self, devices: Sequence[jax.Device], *, is_part: bool):
        every = list(devices) if is_part else jax.devices()
        # By process: each has its rows of a batch side by side, as under `pmap`.
        every = sorted(every, key=lambda device: (device.process_index, device.id))
        self._mesh = Mesh(np.array(every), (AXIS,))
        self._replicated = NamedSharding(self._mesh, PartitionSpec())
        self._cut = NamedSharding(self._mesh, PartitionSpec(AXIS))

    def replicate(self, tree: Tree) -> Tree:
        """See `Parallel`."""
        if jax.process_count() == 1:
            return jax.device_put(tree, self._replicated)

        def whole(leaf: Any) -> jax.Array:
            value = np.asarray(leaf)
            return jax.make_array_from_callback(value.shape, self._replicated, value.__getitem__)

        return jax.tree.map(whole, tree)

    def split(self, batch: HostBatch) -> dict[str, Any]:
        """See `Parallel`."""
        return {
            name: jax.make_array_from_process_local_data(self._cut, value)
            for name, value in batch.items()
            if name != "_set"
        }

    def train(self, step: Step) -> Callable[..., Any]:
        """See `Parallel`."""
        specs = (PartitionSpec(), PartitionSpec(AXIS))
        return jax.jit(self._map(step, specs, PartitionSpec()), donate_argnums=0)

    def evaluate(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """See `Parallel`."""
        whole, cut = PartitionSpec(), PartitionSpec(AXIS)
        return jax.jit(self._map(step, (whole, whole, cut), (whole, cut)))

    def _map(self, function: Callable[..., Any], takes: Any, gives: Any) -> Callable[..., Any]:
        # Steps average their gradients themselves, so differentiation is to add no sums of its own.
        return jax.shard_map(
            function, mesh=self._mesh, in_specs=takes, out_specs=gives, check_vma=False
        )

    def rows(self, pictures: jax.Array) -> np.ndarray:
        """See `Parallel`."""
        shards = sorted(pictures.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        return np.concatenate([np.asarray(shard.data) for shard in shards])


WAYS: dict[str, Callable[..., Parallel]] = {"pmap": ByPmap, "mesh": ByMesh}
"""What `train.parallel` may be."""
