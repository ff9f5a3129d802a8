"""How tests compile: one cache on disk for all processes, plainly, on few threads.

Nothing here imports JAX: the settings are environment variables, so that child processes follow
them too, and JAX reads them when it is imported.
"""

import hashlib
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
import time
import zlib
from collections.abc import MutableMapping

LIMIT = 2_000_000_000  # bytes; beyond it the oldest half goes
CHECKED = ".checked"
ZSTANDARD = b"\x28\xb5\x2f\xfd"
FLAGS = {
    "xla_force_host_platform_device_count": "4",
    "xla_cpu_multi_thread_eigen": "false",  # the processes of pytest-xdist fill the cores
}
# Kernels by the older emitters, and a program in one piece: plain compilation of the two steps of
# CDDFuse's training takes 12 s instead of 28 s.
QUICKER = {"xla_cpu_use_fusion_emitters": "false", "xla_cpu_parallel_codegen_split_count": "1"}


def processor() -> str:
    """What compiled code depends on: the model of the processor and what it can do."""
    wanted = ("model name", "flags", "CPU part", "Features")
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    text = "\n".join(dict.fromkeys(line for line in lines if line.startswith(wanted)))
    text = text or platform.processor() or platform.machine()
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def cache_folder() -> pathlib.Path:
    """A folder for each jaxlib and kind of processor, below MGDN_TEST_CACHE."""
    base = os.environ.get("MGDN_TEST_CACHE") or "~/.cache/mgdn_jax-tests"
    version = importlib.metadata.version("jaxlib")
    return pathlib.Path(base).expanduser() / f"{version}-{processor()}"


def surround(environment: MutableMapping[str, str]) -> None:
    """Sets what every test and every child process of one sees; before JAX is imported."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    flags = FLAGS | (QUICKER if _known(QUICKER, folder / ".quicker") else {})
    environment.update(
        JAX_PLATFORMS="cpu",
        XLA_FLAGS=_join(environment.get("XLA_FLAGS", ""), flags),
        OMP_NUM_THREADS="1",
        JAX_COMPILATION_CACHE_DIR=str(folder),
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1",
        # Compiling takes longer than running; tests about compiled programs are `optimised`.
        JAX_DISABLE_MOST_OPTIMIZATIONS="true",
        # A missing axis is written out, not guessed.
        JAX_NUMPY_RANK_PROMOTION="raise",
    )


def _join(text: str, flags: dict[str, str]) -> str:
    """XLA_FLAGS with these flags set, others kept."""
    others = [flag for flag in text.split() if flag.lstrip("-").split("=")[0] not in flags]
    return " ".join([*others, *(f"--{name}={value}" for name, value in flags.items())])


def _known(flags: dict[str, str], answer: pathlib.Path) -> bool:
    """Whether this jaxlib has the flags (it ends the process if not); asked once a cache."""
    if not answer.exists():
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": _join("", flags)}
        child = [sys.executable, "-c", "import jax; jax.devices()"]
        tried = subprocess.run(child, env=environment, capture_output=True, check=False)
        written = answer.with_name(f".{os.getpid()}")
        written.write_text("yes" if tried.returncode == 0 else "no")
        written.replace(answer)
    return answer.read_text() == "yes"


def tidy(folder: pathlib.Path, limit: int = LIMIT) -> None:
    """Removes entries that a killed process left half-written, and old ones of a large cache.

    JAX writes entries in place. One that is cut short costs a warning and a compilation each time,
    because it is never written again. JAX's own cure (a limit of size, with locks) reads the whole
    folder at every write, which takes longer than what it would save.

    Args:
      folder: the cache.
      limit: bytes that the entries may take.
    """
    stamp = folder / CHECKED
    since = stamp.stat().st_mtime if stamp.exists() else 0.0
    now = time.time()
    entries = [(path.stat(), path) for path in folder.glob("*-cache")]
    for status, path in entries:
        if status.st_mtime >= since - 60 and not _whole(path.read_bytes()):
            path.unlink(missing_ok=True)
    excess = sum(status.st_size for status, _ in entries)
    if excess > limit:
        for status, path in sorted(entries, key=lambda entry: entry[0].st_mtime):
            if excess <= limit / 2:
                break
            path.unlink(missing_ok=True)
            excess -= status.st_size
    stamp.touch()
    os.utime(stamp, (now, now))


def _whole(data: bytes) -> bool:
    """Whether a compressed entry can be read to its end."""
    if data[:4] == ZSTANDARD:
        if sys.version_info >= (3, 14):
            from compression import zstd

            decompress, mistake = zstd.decompress, zstd.ZstdError
        else:
            import zstandard

            decompress, mistake = zstandard.ZstdDecompressor().decompress, zstandard.ZstdError
    else:
        decompress, mistake = zlib.decompress, zlib.error
    try:
        return bool(decompress(data))
    except mistake:
        return False
