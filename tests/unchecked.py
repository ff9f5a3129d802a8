"""Calls as users make them: without the run-time checks of signatures that pytest may switch on."""

import contextlib
from collections.abc import Iterator

import jaxtyping


@contextlib.contextmanager
def as_users_call() -> Iterator[None]:
    """Lets bad arguments through to the functions' own checks, whose messages users see."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)
