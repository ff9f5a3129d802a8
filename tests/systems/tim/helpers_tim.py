"""Published state dictionaries of TIM's golden networks."""

import csv
import functools
import io

import numpy as np
from golden import Golden
from helpers_systems import by_formula

BLUR = np.outer([1, 2, 1], [1, 2, 1]) / 16


@functools.cache
def shapes(network):
    """Shapes of a published network's entries, by key."""
    rows = csv.DictReader(io.StringIO(Golden("tim_networks")["keys"].tobytes().decode()))
    return {
        row["key"]: tuple(int(n) for n in row["shape"].split("x") if n != "scalar")
        for row in rows
        if row["network"] == network
    }


def tim_state(**networks):
    """The entries of published networks, by part: ``initial="meta_M", enhancement="enh_ct"``."""
    state = {}
    for part, network in networks.items():
        for key, shape in shapes(network).items():
            if key.endswith("filt"):
                value = np.broadcast_to(BLUR, shape).astype(np.float32)
            elif key.endswith("tracked"):
                value = np.zeros(shape, np.float32)
            else:
                value = by_formula(f"{network}/{key}", shape)
            state[f"{part}.{key}"] = value
    return state
