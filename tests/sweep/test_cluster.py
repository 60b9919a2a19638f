"""A sweep on a Ray cluster of two nodes, which the test starts and stops."""

import os
import signal
from importlib.util import find_spec
from pathlib import Path

import pytest

from hf_mpq.sweep import Sweep
from tests.sweep.conftest import needs_optuna

pytestmark = [
    needs_optuna,
    pytest.mark.full,
    pytest.mark.skipif(find_spec("ray") is None, reason="pip install 'hf_mpq[ray]'"),
]


@pytest.fixture
def two_nodes(monkeypatch):
    """A connection to two nodes of a CPU each on this machine."""
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # it is 15, with which nothing is done where others compute
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    node = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 10**8}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        cluster.add_node(num_cpus=1, object_store_memory=10**8)
        ray.init(address=cluster.address, log_to_driver=False)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def killed_once(plan, task, point, name, folder):
    """`run_point` in a worker that is killed at the first run of seed 1, and raises at seed 2; notes its node."""
    import ray

    from hf_mpq.sweep.point import run_point

    (Path(folder) / f"node-{ray.get_runtime_context().get_node_id()}").touch()
    mark = Path(folder) / "killed"
    if point["seed"] == 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if point["seed"] == 2:
        raise ValueError("seed 2 went astray")
    return run_point(plan, task, point, name, folder)


def test_runs_are_shared_by_the_nodes_and_a_killed_worker_loses_its_own_only(two_nodes, plan, tmp_path):
    import ray.cloudpickle

    from hf_mpq.sweep.cluster import run_on_ray

    ray.cloudpickle.register_pickle_by_value(__import__(__name__, fromlist=["_"]))
    sweep = Sweep(tmp_path, plan(space={"seed": [0, 1, 2, 3], "budget": "4bits"}))
    run_on_ray(sweep, run=killed_once)
    assert sorted(row["seed"] for row in sweep.rows) == [0, 1, 3] and (tmp_path / "killed").exists()
    assert len(list(tmp_path.glob("node-*"))) == 2
    (left,) = sweep.missing()
    assert left["state"] == "failed" and left["error"] == "ValueError: seed 2 went astray"
    run_on_ray(sweep, retry=True)
    assert sweep.missing() == [] and len(sweep.rows) == 4
    with pytest.raises(ValueError, match="no node of the cluster has 2 CPU and 0 GPU"):
        run_on_ray(sweep, cpus=2)
