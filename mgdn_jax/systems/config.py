"""What the configurations of all systems share: JSON in and out, and checks in one sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from mgdn_jax.arguments import shown
from mgdn_jax.errors import InputError, nearest
from mgdn_jax.systems import fields as values
from mgdn_jax.systems import limits

MOST_WHOLE = 1_000_000
"""No width, size or number in a network's configuration is larger."""

DTYPES = ("float32", "bfloat16", "float64")


@dataclasses.dataclass(frozen=True)
class SystemConfig:
    """Base of a system's frozen `Config`; a subclass adds fields and `in_channels`, `out_channels`.

    Attributes:
        system: the system's name in messages.
    """

    system: ClassVar[str] = "network"

    def __post_init__(self):
        """Demands that every field is of its declared kind; a subclass checks more after it."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        self._check(fields)
        for name, value in fields.items():
            self.demand(not isinstance(value, list), f"{name} must be a tuple, not a list")

    @property
    def grid(self) -> int:
        """Sides that the network works on are multiples of this number of pixels."""
        return 1

    @property
    def blends(self) -> bool:
        """Whether the result is a sum of the inputs with the weights in ``aux["weights"]``."""
        return False

    @property
    def scales(self) -> bool:
        """Whether those weights are meant for the details of every scale, a Laplacian pyramid."""
        return False

    @property
    def sets(self) -> bool:
        """Whether any number of inputs, two or more, is taken in any order."""
        return False

    @property
    def splits_chroma(self) -> bool:
        """Whether a network of colour fuses luminance where one picture is gray, another not."""
        return False

    @property
    def sees_whole(self) -> bool:
        """Whether a pixel of the result depends on all pixels, by means that tiles do not share."""
        return False

    def for_use(self) -> SystemConfig:
        """The same network without what only training needs."""
        return self

    def for_training(self, norm_floor: float) -> SystemConfig:
        """The same network with attention that is never steep.

        Args:
            norm_floor: smallest norm that queries and keys are divided by, at least. Without such a
                division nothing changes.
        """
        del norm_floor
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-safe dictionary of all fields."""
        fields = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Any:
        """Inverse of `to_dict`; absent fields take their defaults, lists become tuples.

        Raises:
            InputError: a field is unknown (a near one is named) or holds an impossible value.
        """
        cls._check(fields)
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})

    @classmethod
    def _check(cls, fields: Mapping[str, Any]) -> None:
        known = [field.name for field in dataclasses.fields(cls)]
        for name in fields:
            if name not in known:
                raise InputError(
                    f"{cls.system} config has no field {shown(name)};"
                    f" {nearest(str(name)[:60], known)}"
                )
        for name, clause in values.faults(cls, fields, most=MOST_WHOLE):
            raise InputError(f"{cls.system} config: {name} {clause}")

    def demand_blocks(self, count: int) -> None:
        """Demands that a network has no more blocks than is allowed (`limits`).

        Args:
            count: blocks that the fields ask for, over all rows of the network.
        """
        limits.check(count, "blocks", f"the {self.system} network of this config")

    def demand(self, holds: bool, sentence: str) -> None:
        """Raises InputError with the sentence unless it holds."""
        if not holds:
            raise InputError(f"{self.system} config: {sentence}")

    def demand_luminance(self) -> None:
        """Demands what networks of two luminance images have: their channels, and a known dtype."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        self.demand(fields["dtype"] in DTYPES, f"dtype is one of {', '.join(DTYPES)}")
        self.demand(fields["in_channels"] == (1, 1), "in_channels is (1, 1): it fuses luminance")
        self.demand(fields["out_channels"] == 1, "out_channels is 1: it fuses luminance")

    def demand_whole(self, *names: str) -> None:
        """Demands positive whole numbers of these fields."""
        for name in names:
            value = getattr(self, name)
            good = type(value) is int and value > 0
            self.demand(good, f"{name} must be a positive whole number")

    def demand_positive(self, *names: str) -> None:
        """Demands positive numbers of these fields."""
        for name in names:
            value = getattr(self, name)
            number = isinstance(value, float | int) and not isinstance(value, bool)
            self.demand(number and value > 0, f"{name} must be a positive number")

    def demand_choice(self, **choices: tuple[str, ...]) -> None:
        """Demands one of a field's choices, by field."""
        for name, known in choices.items():
            self.demand(getattr(self, name) in known, f"{name} is one of {', '.join(known)}")
