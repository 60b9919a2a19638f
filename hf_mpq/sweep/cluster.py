"""The runs of a sweep on a Ray cluster: this process hands them out and keeps the rows, the nodes run them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .._extras import require
from .journal import Journal, Turn
from .plan import FILE, Plan, Point
from .point import run_point
from .sweep import Sweep, announce, run_failed

with require("ray", "a sweep on a cluster"):
    import ray
    from ray.exceptions import GetTimeoutError, RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

MOST_DEATHS = 3
"""So often a run may take its worker with it before it counts as failed."""
PATIENCE = 5.0
"""Seconds after which nodes that came or went are counted anew."""


def run_on_ray(
    sweep: Sweep,
    address: str | None = None,
    cpus: float = 1,
    gpus: float = 0,
    retry: bool = False,
    run: Callable[..., dict[str, Any]] = run_point,
) -> None:
    """Run what has no row on a cluster, as many runs at once as it has room for.

    A run whose worker or node is killed gets another turn, from its last checkpoint on; the others are not disturbed.

    Args:
        sweep: its folder, the model and the data are on a disk that all nodes share, under the same paths.
        address: of the cluster; None: that of `RAY_ADDRESS`, else the one that was started on this machine, else a new
            one of this machine alone. Where Ray is initialized already, that is used.
        cpus, gpus: that a run takes.
        retry: what failed before gets another turn.
        run: `run_point`, or another with its arguments.

    Raises:
        ValueError: a node does not see the folder, or no node has room for a run.
    """
    ours = not ray.is_initialized()
    if ours:
        ray.init(address=address, log_to_driver=False)
    try:
        _check_nodes(sweep.folder.resolve(), cpus, gpus)
        journal = sweep.journal()
        if retry:
            journal.retry()
        _hand_out(sweep, journal, ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_run), cpus, gpus, run)
    finally:
        if ours:
            ray.shutdown()


def _hand_out(sweep: Sweep, journal: Journal, task: Any, cpus: float, gpus: float, run: Callable) -> None:
    going: dict[Any, Turn] = {}
    deaths: Counter[str] = Counter()
    try:
        while True:
            while len(going) < _room(cpus, gpus) and (turn := journal.take()) is not None:
                announce(f"{turn.name}: begins")
                place = (sweep.folder.resolve(), Path.cwd())
                going[task.remote(run, sweep.plan, turn.task, turn.point, turn.name, *place)] = turn
            if not going:
                return
            for reference in ray.wait(list(going), timeout=PATIENCE)[0]:
                _take_in(sweep, journal, reference, going.pop(reference), deaths)
    finally:
        for reference, turn in going.items():
            ray.cancel(reference, force=True)
            turn.lock.release()


def _take_in(sweep: Sweep, journal: Journal, reference: Any, turn: Turn, deaths: Counter[str]) -> None:
    try:
        sweep.keep(journal, turn, ray.get(reference))
    except RayTaskError as error:
        run_failed(journal, turn, error.cause if isinstance(error.cause, Exception) else error)
    except RayError as error:  # the worker or its node is gone
        deaths[turn.name] += 1
        if deaths[turn.name] < MOST_DEATHS:
            announce(f"{turn.name}: its worker is gone, it gets another turn")
            turn.lock.release()
        else:
            run_failed(journal, turn, error)


def _run(
    run: Callable, plan: Plan, task: str, point: Point, name: str, folder: Path, directory: Path
) -> dict[str, Any]:
    """On a node, in the directory that relative paths are meant from."""
    if directory.is_dir():
        os.chdir(directory)
    return run(plan, task, point, name, folder)


def _room(cpus: float, gpus: float) -> int:
    """How many runs the cluster has room for as it is now."""
    rooms = []
    for node in ray.nodes():
        if node["Alive"]:
            wanted = {"CPU": cpus, "GPU": gpus}
            parts = [node["Resources"].get(name, 0) / amount for name, amount in wanted.items() if amount]
            rooms.append(int(min(parts)) if parts else 1)
    return sum(rooms)


def _check_nodes(folder: Path, cpus: float, gpus: float) -> None:
    """Raise ValueError where a run would find no place, or not its folder."""
    if not _room(cpus, gpus):
        raise ValueError(f"no node of the cluster has {cpus:g} CPU and {gpus:g} GPU for a run: ask for less")
    look = ray.remote(num_cpus=0)(lambda: (folder / FILE).exists())
    for node in (node for node in ray.nodes() if node["Alive"]):
        where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        try:
            seen = ray.get(look.options(scheduling_strategy=where).remote(), timeout=60)
        except GetTimeoutError:
            continue  # a busy node; a run that does not find its folder there says so
        if not seen:
            raise ValueError(
                f"node {node['NodeManagerHostname']} does not see {folder}: put --out, the model and the data on a "
                "disk that all nodes share"
            )
