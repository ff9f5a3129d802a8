"""The Python API in ten lines: fuses the example pair and says how good the result is."""

from pathlib import Path

import mgdn_jax
from mgdn_jax import metrics
from mgdn_jax.io import files

here = Path(__file__).parent
near, far = (files.read_image(here / f"coffee_{name}.jpg") for name in ("near", "far"))
fused = mgdn_jax.load("mgdn-mff")(near, far)  # uint8 in, uint8 out, same size
files.write_image("fused_coffee.png", fused)
print({name: round(value, 3) for name, value in metrics.evaluate(fused, near, far).items()})
