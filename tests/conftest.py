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

collect_ignore = [] if PUBLISHED.is_file() else ["test_published.py"]


def pytest_report_header() -> str:
    """Says which tests are collected: nothing is skipped silently."""
    state = "collected" if not collect_ignore else "absent, test_published.py is not collected"
    return f"published checkpoints (MGDN_SHARED): {state}"
