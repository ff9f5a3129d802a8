"""What most recipes share: settings and configuration read, one network initialised and applied."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from mgdn_jax.errors import InputError, nearest
from mgdn_jax.layers import functional
from mgdn_jax.systems import fields, registry
from mgdn_jax.systems.contract import Batch, Networks, Recipe


class BaseRecipe(Recipe):
    """A recipe whose `loss` remains to be written, where it trains one network."""

    def __init__(self, model: Mapping[str, Any] | None = None, **settings: Any):
        """Checks the settings and reads the configuration.

        Args:
            model: fields of the system's `Config`, or {"preset": name, field: value, ...}.
            **settings: fields of `settings_type`.

        Raises:
            InputError: an unknown field, or a value that makes no sense.
        """
        known = [field.name for field in dataclasses.fields(self.settings_type)]
        for name in settings:
            if name not in known:
                raise InputError(f"config has no field 'recipe.{name}'; {nearest(name, known)}")
        for name, clause in fields.faults(self.settings_type, settings):
            raise InputError(f"recipe.{name} {clause}")
        self.settings = self.settings_type(**settings)
        self.model_config = self.read_model(dict(model or {}))

    def read_model(self, fields: dict[str, Any]) -> Any:
        """The `Config` that the `model` block describes; the first preset where none is named."""
        presets = registry.network(self.system).PRESETS
        name = fields.pop("preset", "") or next(iter(presets))
        return registry.preset(self.system, name, **fields)

    def luminance_sources(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Both images of a batch, (B, h, w, 1) each.

        Raises:
            InputError: images are not luminance.
        """
        a, b = self.sources(batch)
        if a.shape[-1] != 1 or b.shape[-1] != 1:
            raise InputError(f"{self.system} is about luminance; set data.channels=1")
        return a, b

    def init(self, key: jax.Array) -> tuple[Networks, Networks]:
        """Fresh ``(params, stats)`` of the network that ships."""
        _, params, stats = registry.initialise(self.system, self.model_config, key)
        return {self.ships: params}, {self.ships: stats}

    def fuse(self, params: Networks, stats: Networks, *images: jax.Array) -> jax.Array:
        """Fused images of the network that ships, as it is used after training."""
        graphdef = registry.graphdef(self.system, self.model_config)
        return functional.apply(graphdef, *self.join(params, stats), *images)[0][0]
