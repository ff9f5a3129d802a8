"""What started the processes of a run, as JAX detects it: Slurm, Open MPI, Kubernetes, Cloud TPU.

JAX takes what it detects for its own service. Ours stands before that (`partners`), so the answer
is needed first, and JAX gives it in a private module alone. This is the only file that reads it.
"""

from __future__ import annotations

import dataclasses
import os
import warnings

from mgdn_jax.errors import InputError

_FLAGS = "give --coordinator, --processes and --process"


@dataclasses.dataclass(frozen=True)
class Membership:
    """Which of how many processes this one is.

    Attributes:
        coordinator: "host:port" of the first process.
        processes: how many there are.
        process: index of this one.
        devices: local accelerators that are this process's; None for all.
    """

    coordinator: str
    processes: int
    process: int
    devices: tuple[int, ...] | None = None


def detect(seconds: int = 300) -> Membership:
    """This process's membership by its environment.

    Under Slurm and Open MPI each process has one accelerator, that of its number on the machine;
    JAX_LOCAL_DEVICE_IDS says otherwise. JAX_COORDINATOR_PORT sets the port.

    Args:
        seconds: how long to wait for the name of the first machine to be known.

    Raises:
        InputError: no cluster is detected, or what it says cannot be read.
    """
    wanted = _local_devices()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a missing package, which the sentence below names
        try:
            from jax._src.clusters import ClusterEnv

            coordinator, processes, process, devices = (
                ClusterEnv.auto_detect_unset_distributed_params(
                    None, None, None, wanted, None, seconds
                )
            )
        except (ImportError, AttributeError, TypeError) as error:
            raise InputError(
                f"this version of JAX detects clusters in another way ({error}); {_FLAGS} in place"
                " of --distributed=auto."
            ) from error
        except Exception as error:  # of the cluster's own service, or a variable that is no number
            reason = (str(error).strip().splitlines() or [""])[0][:120]
            raise InputError(
                f"--distributed=auto detects a cluster and cannot read what it says"
                f" ({type(error).__name__}: {reason}); {_FLAGS} in its place."
            ) from error
    if coordinator is None or processes is None or process is None:
        raise InputError(_nothing())
    return Membership(coordinator, processes, process, None if devices is None else tuple(devices))


def _local_devices() -> list[int] | None:
    text = os.environ.get("JAX_LOCAL_DEVICE_IDS")
    if not text:
        return None
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise InputError(
            f"JAX_LOCAL_DEVICE_IDS is {text!r} and must be whole numbers with commas between them."
        ) from None


def _nothing() -> str:
    """That no cluster is there, in one sentence."""
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return (
            "--distributed=auto needs the package kubernetes to detect this cluster; install it"
            f' with pip install "jax[k8s]", or {_FLAGS}.'
        )
    return (
        "--distributed=auto detects no Slurm, Open MPI, Kubernetes or Cloud TPU around this"
        f" process; start it with srun or mpirun, or {_FLAGS}."
    )
