"""All metrics in the order of tables; each module of the ruler describes its own in `ENTRIES`."""

from __future__ import annotations

from mgdn_jax.metrics import (
    edges,
    exposure,
    features,
    information,
    perception,
    reference,
    similarity,
    statistics,
    structure,
    vif,
)
from mgdn_jax.metrics.metric import Metric

ENTRIES: tuple[Metric, ...] = (
    *statistics.ENTRIES,
    *information.ENTRIES,
    *features.ENTRIES,
    *similarity.ENTRIES,
    *vif.ENTRIES,
    *edges.ENTRIES,
    *perception.ENTRIES,
    *structure.ENTRIES,
    *exposure.ENTRIES,
    *reference.ENTRIES,
)
