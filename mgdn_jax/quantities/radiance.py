"""Linear radiance out of exposures, and back into pictures: the preparation of HDR deghosting.

An exposure is a picture in [0, 1] and the time it was open. Times are relative to the shortest
one, so radiance 1 is the light that just saturates the shortest exposure:

    H = LDR^gamma / t            T(H) = ln(1 + mu H) / ln(1 + mu)

The functions take NumPy's and JAX's arrays alike and give back what they took.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mgdn_jax import arguments
from mgdn_jax.errors import InputError

GAMMA = 2.2
MU = 5000.0
MOST_STOPS = 30
"""Exposures that are further apart are a mistake."""
_CHANNELS = 6  # of one input: the picture, then its light


@dataclasses.dataclass(frozen=True)
class RadiancePreparation:
    """How exposures become the inputs of a network, as its card says.

    Attributes:
        gamma: the power that turns pixels into light.
        mu: the strength of the curve that radiance is compressed with for losses and previews.
    """

    gamma: float = GAMMA
    mu: float = MU

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if not 0.5 <= arguments.real("gamma", self.gamma) <= 5:
            raise InputError(f"gamma is {self.gamma}; give the camera's power, 0.5 to 5.")
        arguments.real("mu", self.mu, above=0)

    def to_dict(self) -> dict[str, Any]:
        """What a card stores: plain JSON."""
        return {"quantity": "radiance", "gamma": self.gamma, "mu": self.mu}

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> RadiancePreparation:
        """The preparation that a card stores.

        Raises:
            InputError: it is none of radiance, or a field is unknown, lacking or out of range.
        """
        fields = dict(mapping)
        quantity = fields.pop("quantity", None)
        if quantity != "radiance" or set(fields) != {"gamma", "mu"}:
            raise InputError(
                f"the preparation {arguments.shown(mapping)} is not one of radiance with gamma and "
                "mu; use a weight file of a network for exposures."
            )
        return cls(**{key: arguments.real(key, value) for key, value in fields.items()})

    def inputs(self, exposures: Sequence[Any], times: Sequence[float]) -> list[Any]:
        """What a network takes: `inputs` with this camera's power."""
        return inputs(exposures, times, self.gamma)


def relative_times(
    *, seconds: Sequence[float] | None = None, ev: Sequence[float] | None = None
) -> tuple[float, ...]:
    """Exposure times relative to the shortest one, in the order given.

    Args:
        seconds: the times, or anything that the light is proportional to.
        ev: instead of them, steps of factors of two; they may start anywhere.

    Returns:
        Numbers of which the least is 1.

    Raises:
        InputError: neither or both are given, or a number is none that a time can be.
    """
    if (seconds is None) == (ev is None):
        raise InputError("exposures need either their times or their EV steps; give one of them.")
    numbers = arguments.reals(
        "ev" if seconds is None else "times", ev if seconds is None else seconds
    )
    shown = arguments.shown(list(numbers))
    if ev is not None:
        if max(numbers) - min(numbers) > MOST_STOPS:
            raise InputError(f"the EV steps {shown} span more than 30 stops; correct them.")
        return tuple(2.0 ** (x - min(numbers)) for x in numbers)
    if min(numbers) <= 0:
        raise InputError(f"the exposure times {shown} must be above zero; correct them.")
    if math.log2(max(numbers)) - math.log2(min(numbers)) > MOST_STOPS:
        raise InputError(f"the exposure times {shown} span more than 30 stops; correct them.")
    return tuple(x / min(numbers) for x in numbers)


def linear(ldr: Any, time: float, gamma: float = GAMMA) -> Any:
    """Radiance that an exposure shows: LDR^gamma / t.

    Args:
        ldr: any shape, in [0, 1].
        time: of the exposure, relative to the shortest.
        gamma: the camera's power.

    Returns:
        The same shape and dtype, in [0, 1 / time].
    """
    return ldr**gamma / time


def developed(radiance: Any, time: float, gamma: float = GAMMA) -> Any:
    """The picture that an exposure makes of radiance: min(t H, 1)^(1/gamma).

    Args:
        radiance: any shape, not negative.
        time: of the exposure, relative to the shortest.
        gamma: the camera's power.

    Returns:
        The same shape and dtype, in [0, 1].
    """
    xp = radiance.__array_namespace__()
    return xp.clip(radiance * time, 0, 1) ** (1 / gamma)


def inputs(exposures: Sequence[Any], times: Sequence[float], gamma: float = GAMMA) -> list[Any]:
    """A network's inputs: of every exposure the picture, then its light.

    Args:
        exposures: (..., H, W, 3) float32 each, in [0, 1]; what lies outside is clipped.
        times: of each, relative to the shortest, whose time is 1.
        gamma: the camera's power.

    Returns:
        (..., H, W, 6) each, in the same order.

    Raises:
        InputError: the numbers of exposures and times differ, the least time is not 1, or a
            picture has no three channels.
    """
    if len(exposures) != len(times) or not exposures:
        raise InputError(
            f"{len(exposures)} exposures and {len(times)} times do not fit; give one time each."
        )
    times = arguments.reals("times", times)
    if not math.isclose(min(times), 1.0, rel_tol=1e-6):
        raise InputError(
            f"the times {tuple(times)} must be relative to the shortest; divide them by it."
        )
    results = []
    for picture, time in zip(exposures, times, strict=True):
        if picture.ndim < 3 or picture.shape[-1] != _CHANNELS // 2:
            raise InputError(f"an exposure has the shape {picture.shape}; give (height, width, 3).")
        xp = picture.__array_namespace__()
        ldr = xp.clip(picture, 0, 1)
        results.append(xp.concat([ldr, linear(ldr, time, gamma)], axis=-1))
    return results


def mu_law(x: Any, mu: float = MU) -> Any:
    """Compresses radiance for losses and previews: ln(1 + mu x) / ln(1 + mu).

    Args:
        x: any shape, above -1 / mu; 0..1 becomes 0..1.
        mu: strength of the curve.

    Returns:
        The same shape and dtype.
    """
    xp = x.__array_namespace__()
    return xp.log1p(mu * x) / math.log1p(mu)


def inverse_mu_law(y: Any, mu: float = MU) -> Any:
    """Radiance of what `mu_law` compressed.

    Args:
        y: any shape.
        mu: strength of the curve.

    Returns:
        The same shape and dtype.
    """
    xp = y.__array_namespace__()
    return xp.expm1(y * math.log1p(mu)) / mu
