"""What a metric is besides its function: names, direction, range, and what it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

FUSED = ("fused",)
SOURCES = ("fused", "a", "b")
TRUTH = ("fused", "truth")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number that judges a fused image.

    Attributes:
        name: Column title.
        title: Long name.
        meaning: What it measures, in one line.
        fn: Pure function of one array per entry of `needs`.
        higher_is_better: Direction.
        needs: Arguments of `fn`: `FUSED`, `SOURCES` or `TRUTH`.
        group: Subject of the metric, a key of `mgdn_jax.metrics.GROUPS`.
        bounds: Smallest and largest value for integer images in 0..255, up to rounding.
        unit: Unit of the value; empty for pure numbers.
        min_side: Smallest height and width.
        takes_many: Whether `fn` takes further sources behind the two.
        symmetric: Whether exchanging the sources leaves the value unchanged.
        selects: Whether it may choose between models; False for metrics that reward noise or say
            little.
        domain: What `fn` takes: `gray` (luminance in 0..255), `metres` (raw float depth maps)
            or `linear` (raw float `(H, W, C)` radiance in 0..1).
    """

    name: str
    title: str
    meaning: str
    fn: Callable[..., float]
    higher_is_better: bool
    needs: tuple[str, ...]
    group: str
    bounds: tuple[float, float]
    unit: str = ""
    min_side: int = 1
    takes_many: bool = False
    symmetric: bool = True
    selects: bool = True
    domain: str = "gray"

    @property
    def arrow(self) -> str:
        """Direction as a sign for table heads."""
        return "↑" if self.higher_is_better else "↓"
