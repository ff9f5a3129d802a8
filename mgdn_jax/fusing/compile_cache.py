"""Compiled programs kept on disk between runs."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from mgdn_jax.io.cache import cache_folder


def enable_compilation_cache() -> Path | None:
    """Lets JAX keep compiled programs on disk, so that the next run starts at once.

    Returns:
      The folder, or None if it is switched off or not writable (which is no error).
    """
    folder = cache_folder()
    if folder is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    if not os.access(folder, os.W_OK):
        return None
    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    return folder


@contextlib.contextmanager
def taking_turns(program: str) -> Iterator[None]:
    """One process of this machine compiles a program, and the others read it from the disk.

    Args:
        program: what tells it from others.
    """
    folder = cache_folder()
    lock = None
    if folder is not None:
        name = hashlib.sha256(program.encode()).hexdigest()[:24]
        with contextlib.suppress(OSError, RuntimeError, ImportError):
            import fcntl  # Windows has none: there, each process compiles for itself

            (folder / "turns").mkdir(parents=True, exist_ok=True)
            lock = os.open(folder / "turns" / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(lock, fcntl.LOCK_EX)  # a process that ends lets go of it
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)
