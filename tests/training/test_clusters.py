"""What is detected of a cluster, whose environment is played."""

import os
import sys

import pytest
from helpers_runs import train_here

from mgdn_jax.errors import InputError
from mgdn_jax.training.clusters import Membership, detect

SLURM = {
    "SLURM_JOB_ID": "5001", "SLURM_STEP_NODELIST": "node[007-008]", "SLURM_NTASKS": "16",
    "SLURM_PROCID": "9", "SLURM_LOCALID": "1",
}  # fmt: skip
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0",
}  # fmt: skip
KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}


@pytest.fixture(autouse=True)
def nowhere(monkeypatch):
    """No cluster but the one that a test plays; the package of Kubernetes is not there."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "KUBERNETES_", "TPU_", "JAX_LOCAL", "JAX_COORD")):
            monkeypatch.delenv(name)
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    monkeypatch.setitem(sys.modules, "mpi4py", None)


def play(monkeypatch, **variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_slurm(monkeypatch):
    play(monkeypatch, **SLURM)
    port = 65535 - 2**12 + 1 + 5001 % 2**12
    assert detect() == Membership(f"node007:{port}", 16, 9, (1,))
    play(monkeypatch, JAX_COORDINATOR_PORT="1234", JAX_LOCAL_DEVICE_IDS="0,1,2,3")
    assert detect() == Membership("node007:1234", 16, 9, (0, 1, 2, 3))


def test_open_mpi(monkeypatch):
    play(monkeypatch, **OPEN_MPI, JAX_COORDINATOR_PORT="1234")
    assert detect() == Membership("10.96.0.1:1234", 2, 1, (0,))


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "detects no Slurm, Open MPI, Kubernetes or Cloud TPU around this process; start it"),
        ({"SLURM_JOB_ID": "1"}, "start it with srun or mpirun, or give --coordinator"),
        (KUBERNETES, 'pip install "jax[k8s]", or give --coordinator, --processes and --process.'),
        (SLURM | {"SLURM_NTASKS": "x"}, "cannot read what it says (ValueError: invalid literal"),
        (SLURM | {"JAX_LOCAL_DEVICE_IDS": "a"}, "JAX_LOCAL_DEVICE_IDS is 'a' and must be whole"),
    ],
)
def test_what_cannot_be_detected_is_one_sentence_and_exit_2(
    tmp_path, capsys, monkeypatch, variables, words
):
    play(monkeypatch, **variables)
    assert train_here(monkeypatch, tmp_path / "run", "--distributed=auto") == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert words in said.err
    assert len((said.out + said.err).splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_another_version_of_jax_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax._src.clusters", None)
    with pytest.raises(InputError, match=r"detects clusters in another way .*; give --coordinator"):
        detect()
