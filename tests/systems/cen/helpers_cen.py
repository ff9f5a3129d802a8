"""Published entries of CEN's goldens: names, weights by rule, and what became of them here."""

import re
import zlib

import numpy as np

from mgdn_jax.systems import registry
from mgdn_jax.systems.cen.conversion import RULES
from mgdn_jax.weights.conversion import _LEAVES, _LONE

ROWS = RULES["Segmentation"].modules


def entries(golden, prefix):
    """Arrays whose keys begin so, by the rest of the key; nothing of parts below."""
    return {
        key.removeprefix(prefix): value
        for key, value in golden.arrays.items()
        if key.startswith(prefix) and "/" not in key.removeprefix(prefix)
    }


def ours(published, theirs="", place=""):
    """{our path: array} of published entries.

    Args:
        published: by key.
        theirs: what the table has before the keys.
        place: what our paths begin with in the table.
    """
    found = {}
    for key, value in published.items():
        module, _, leaf = (theirs + key).rpartition(".")
        for pattern, path, kind in ROWS:
            if kind in _LONE and (match := re.fullmatch(pattern, theirs + key)):
                target, layout = match.expand(path), _LONE[kind]
            elif leaf in _LEAVES.get(kind, {}) and (match := re.fullmatch(pattern, module)):
                name, layout = _LEAVES[kind][leaf]
                target = f"{match.expand(path)}/{name}"
            else:
                continue
            assert target.startswith(place)
            assert target not in found
            found[target.removeprefix(place)] = layout.ours(np.asarray(value))
    assert len(found) == len(published)
    return found


def u(key, shape):
    """The golden files' uniform numbers of a key."""
    return np.random.RandomState(zlib.crc32(key.encode())).uniform(-1, 1, size=shape)


def segmentation_state(config):
    """Published names of a segmentation network, and its weights by the golden files' rule."""
    return {key: _by_rule(key, shape) for key, shape in shapes(config).items()}


def _by_rule(key, shape):
    draw = u(key, shape)
    if key.endswith("running_var"):
        value = 1 + 0.3 * draw
    elif key.endswith(("running_mean", "bias")):
        value = 0.1 * draw
    elif key == "alpha":
        value = 0.5 * draw
    elif len(shape) == 1:
        value = 1 + 0.3 * draw
        if ".bn2." in key:
            low = u(f"gamma:{key}", shape)
            value = np.where(low < -0.6, 0.015 * low, value)
    else:
        value = draw * np.sqrt(3 / np.prod(shape[1:]))
        return value.astype(np.float32) * np.float32(0.6)
    return value.astype(np.float32)


def shapes(config):
    """Shapes by published key, from our own outline of the network turned round."""
    _, params, stats = registry.abstract("cen", config, "Segmentation")
    leaves = {"scale": "weight", "mean": "running_mean", "variance": "running_var"}
    found = {}
    for path, leaf in {**params, **stats}.items():
        place, _, name = path.rpartition("/")
        shape = tuple(leaf.shape)
        if name == "kernel":
            name, shape = "weight", shape[:-3:-1] + shape[:2]
        name = leaves.get(name, name)
        key = "alpha" if path == "alpha" else f"{_published(place)}.{name}"
        found[key] = shape
    return found


def _published(place):
    """The published path of a module of ours."""
    parts = place.split("/")
    if "norms" in parts:
        module = "".join(parts[: parts.index("norm")][-1:])
        branch = f"bn_{parts[-1]}"
        if parts[0] == "stem":
            return f"bn1.{branch}"
        block = f"layer{int(parts[1]) + 1}.{parts[2]}"
        names = {"enter": "bn1", "middle": "bn2", "leave": "bn3", "shortcut": "downsample.1"}
        return f"{block}.{names[module]}.{branch}"
    if parts[0] == "stem":
        return "conv1.module"
    if parts[0] == "classifier":
        return "clf_conv.module"
    if parts[0] == "stages":
        names = {"enter": "conv1", "middle": "conv2", "leave": "conv3", "shortcut": "downsample.0"}
        return f"layer{int(parts[1]) + 1}.{parts[2]}.{names[parts[3]]}.module"
    g, part = int(parts[1]) + 1, parts[2]
    plain = {
        "reduce": f"p_ims1d2_outl{g}_dimred",
        "join": f"adapt_stage{g}_b2_joint_varout_dimred",
        "leave": f"mflow_conv_g{g}_b3_joint_varout_dimred",
    }
    if part in plain:
        return f"{plain[part]}.module"
    k = int(parts[-1]) + 1
    if part == "pool":
        return f"mflow_conv_g{g}_pool.0.{k}_outvar_dimred.module"
    unit = {"adapt": f"adapt_stage{g}_b", "flow": f"mflow_conv_g{g}_b"}[part]
    second = "_relu_varout_dimred" if parts[3] == "second" else ""
    return f"{unit}.0.{k}_conv{second}.module"
