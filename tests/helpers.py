"""What several rooms of tests share: places, arrays, scripts, the environment of children."""

import importlib.util
import os
import pathlib

import jax.numpy as jnp
import numpy as np

ROOT = pathlib.Path(__file__).parent.parent
TESTS = ROOT / "tests"


def last(array):
    """Channels of an NCHW array at the end."""
    return np.moveaxis(np.asarray(array), 1, -1)


def noise(*shape, seed=0):
    """Uniform numbers in [0, 1), float32."""
    return jnp.asarray(np.random.default_rng(seed).random(shape), jnp.float32)


def filled(graphdef, shapes, spread=0.0):
    """Start values by NumPy (drawing them with JAX would compile for every shape)."""
    random = np.random.default_rng(0)
    params = {}
    for name, leaf in shapes.items():
        if name.endswith("kernel"):
            value = random.uniform(-1, 1, leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
        else:
            start = 0.0 if name.endswith("bias") else 1.0
            value = start + spread * random.normal(size=leaf.shape)
        params[name] = jnp.asarray(value, jnp.float32)
    return graphdef, params


def script(path):
    """A script of the repository as a module, by its path from the root."""
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def environment(**variables):
    """For child processes: wherever they start, they import this very package and its fakes."""
    path = os.pathsep.join([str(ROOT), str(TESTS)])
    return os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"} | variables


def xla_flags(devices=None):
    """XLA_FLAGS of this process with another number of virtual devices; None sets no number."""
    name = "--xla_force_host_platform_device_count"
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if not flag.startswith(name)]
    return " ".join(flags if devices is None else [*flags, f"{name}={devices}"])
