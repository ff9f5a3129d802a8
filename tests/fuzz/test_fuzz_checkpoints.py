"""Damaged headers of checkpoints; `MGDN_FUZZ=2000` tries more than the 200 of the suite."""

import shutil

from mutations import count, mutations, survey

from mgdn_jax.training.checkpoints import Checkpoints


def test_headers_of_checkpoints(tmp_path):
    """A damaged header is never taken for a good one, and the folder stays usable."""
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
    first = Checkpoints(whole)
    data = {"examples": 12, "seed": 3, "version": 1}
    first.save(7, {}, data=data, meta={"hours": 0.5, "metrics": {}, "name": "a"})
    first.close()
    (header,) = [path for path in (whole / "7").rglob("*") if path.match("header/metadata")]
    good = header.read_bytes()

    def read(content):
        if damaged.exists():
            shutil.rmtree(damaged)
        shutil.copytree(whole, damaged)
        (damaged / header.relative_to(whole)).write_bytes(content)
        again = Checkpoints(damaged)
        try:
            restored = again.restore({})
        finally:
            again.close()
        assert (restored.step, restored.data) == (7, data)

    read(good)
    survey(read, mutations(good, count(), seed=6))
