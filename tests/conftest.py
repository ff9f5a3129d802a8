"""Every test sees four virtual CPU devices; set before JAX looks for its backends."""

import os
import pathlib

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
).strip()

# Published checkpoints may not be redistributed; their tests run where the material lies.
SHARED = pathlib.Path(os.environ.get("MGDN_SHARED", pathlib.Path(__file__).parents[2] / "shared"))
PUBLISHED = SHARED / "weights" / "mgdn" / "62000_E.pth"

REFUSION = SHARED / "weights" / "refusion" / "ReFusion_IVIF.pth"

collect_ignore = [
    name
    for name, path in (
        ("test_published.py", PUBLISHED),
        ("test_published_refusion.py", REFUSION),
    )
    if not path.is_file()
]


def pytest_report_header() -> str:
    """Says which tests are collected: nothing is skipped silently."""
    state = "collected" if not collect_ignore else f"not all there, without {collect_ignore}"
    return f"published checkpoints (MGDN_SHARED): {state}"
