"""Many searches at once: the same verdicts in the same order wherever they run, clear errors, and a clean Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pasidlab.errors import InputError
from pasidlab.explore.check import Plan, Verdict
from pasidlab.explore.sweep import Search, Swept, run_search, sweep
from pasidlab.explore.verdict import Engine, Limits, Progress, Status
from pasidlab.explore.world import World

READABLE = Plan(engine=Engine.READABLE)
WORLD: dict[str, Any] = {
    "actions": ["bind", "unbind", "submit"],
    "teardown": {"windows": False},
    "iommu": [{"name": "iommu0", "max_pasids": 3}],
    "device": [{"name": "acc0", "iommu": "iommu0", "pasid_bits": 2}],
    "process": [{"name": "p", "count": 2}],
}


def world(title: str, **changes: Any) -> World:
    return World.from_dict(WORLD | {"title": title} | changes)


def searches() -> list[Search]:
    """Return searches of different lengths, the longest first, so that they end in another order."""
    large = world("large", process=[{"name": "p", "count": 3}])
    small = world("small", actions=["bind"])
    both = [Search(large, "mainline", READABLE), Search(small, "hybrid", READABLE), Search(small, "rfc", READABLE)]
    return [*both, Search(large, "v2", Plan(engine=Engine.READABLE, limits=Limits(depth=2)))]


def comparable(swept: Swept) -> list[Verdict]:
    """Return the verdicts without what differs from run to run."""
    verdicts = [verdict for verdict in swept.verdicts if verdict is not None]
    assert len(verdicts) == len(swept.verdicts)
    return [replace(one, found=replace(one.found, seconds=0.0, memory=0)) for one in verdicts]


@pytest.fixture(scope="module")
def in_turn() -> list[Verdict]:
    return comparable(sweep(searches(), workers=1))


def test_verdicts_are_in_the_order_of_the_searches(in_turn: list[Verdict]) -> None:
    assert [(one.world, one.scheme) for one in in_turn] == [(s.world.title, s.scheme) for s in searches()]
    assert [one.status for one in in_turn] == [Status.HOLDS] * 3 + [Status.STOPPED]


def test_local_processes_give_the_same_verdicts(in_turn: list[Verdict]) -> None:
    told: list[tuple[int, int]] = []
    swept = sweep(searches(), workers=2, done=lambda done, of: told.append((done, of)))
    assert comparable(swept) == in_turn
    assert not swept.interrupted
    assert told[-1] == (4, 4)
    assert told == sorted(told)


def test_a_cluster_gives_the_same_verdicts(in_turn: list[Verdict], cluster: str) -> None:
    told: list[tuple[int, int]] = []
    swept = sweep(searches(), cluster=cluster, done=lambda done, of: told.append((done, of)))
    assert comparable(swept) == in_turn
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None, protocol="tcp", host="127.0.0.1"
    ) as local:
        yield local.scheduler_address


@pytest.mark.parametrize("how", [{"workers": 1}, {"workers": 2}])
def test_a_wrong_search_is_an_input_error(how: dict[str, int]) -> None:
    wrong = Search(world("wrong", always=["no-such-property"]), "mainline", READABLE)
    with pytest.raises(InputError, match="no-such-property"):
        sweep([searches()[0], wrong], workers=how["workers"])


def test_a_wrong_search_on_a_cluster_is_an_input_error(cluster: str) -> None:
    wrong = Search(world("wrong", always=["no-such-property"]), "mainline", READABLE)
    with pytest.raises(InputError, match="no-such-property"):
        sweep([wrong], cluster=cluster)


def test_no_search_gives_no_verdict() -> None:
    assert sweep([], workers=2) == Swept((), interrupted=False)


# --- clusters that are not there -----------------------------------------------------------------------------------


def test_a_cluster_without_dask_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"needs dask\.distributed; pip install 'pasidlab\[cluster\]'"):
        sweep(searches(), cluster="tcp://127.0.0.1:1")


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://here", "no address", ""])
def test_a_cluster_that_does_not_answer_is_an_input_error(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("pasidlab.explore.sweep.CLUSTER_TIMEOUT", 0.2)
    with pytest.raises(InputError, match=f"--cluster '{address}': no dask scheduler answers there: ."):
        sweep(searches(), cluster=address)


# --- Ctrl-C --------------------------------------------------------------------------------------------------------


def test_ctrl_c_in_this_process_keeps_what_is_done_and_leaves_out_the_rest() -> None:
    def interrupt(done: int, of: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    swept = sweep(searches(), workers=1, done=interrupt)
    assert swept.interrupted
    assert [verdict is not None for verdict in swept.verdicts] == [True, True, False, False]


def test_a_search_that_is_interrupted_ends_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(search: Search) -> Verdict:
        def interrupt(scheme: str, progress: Progress) -> None:
            raise KeyboardInterrupt

        return run_search(search, interrupt)

    monkeypatch.setattr("pasidlab.explore.sweep.run_search", interrupted)
    large = world("large", process=[{"name": "p", "count": 4, "threads": 3}], actions=["bind", "submit", "exit"])
    swept = sweep([Search(large, "mainline", READABLE)] * 2, workers=1)
    assert swept.interrupted
    first, second = swept.verdicts
    assert first is not None
    assert first.status is Status.INTERRUPTED
    assert first.found.states > 0
    assert second is None


PROGRAM = """
import json, sys
from pasidlab.explore.check import Plan
from pasidlab.explore.sweep import Search, sweep
from pasidlab.explore.verdict import Engine
from pasidlab.explore.world import World

if __name__ == "__main__":
    world = World.load(sys.argv[1])
    small = World.load(sys.argv[2])
    search = Search(world, "mainline", Plan(engine=Engine.READABLE))
    quick = Search(small, "mainline", Plan(engine=Engine.READABLE))
    swept = sweep([quick, search, search, search], workers=2, done=lambda done, of: print(done, flush=True))
    print(json.dumps([None if one is None else one.status for one in swept.verdicts]))
    print(swept.interrupted)
"""


def test_ctrl_c_stops_local_processes_which_say_what_they_covered(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    endless = WORLD | {"process": [{"name": "p", "count": 5, "threads": 3}], "actions": ["bind", "submit", "exit"]}
    paths = [tmp_path / "endless.toml", tmp_path / "quick.toml"]
    for path, raw in zip(paths, (endless, WORLD | {"actions": ["bind"]}), strict=True):
        path.write_text(toml(raw))
    command = [sys.executable, str(program), *map(str, paths)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        output, errors = process.communicate(timeout=30)
    assert errors == ""
    statuses, interrupted = output.splitlines()
    assert interrupted == "True"
    assert json.loads(statuses)[0] == "holds"
    assert "interrupted" in json.loads(statuses)
    assert set(json.loads(statuses)[1:]) <= {"interrupted", None}


def toml(raw: dict[str, Any]) -> str:
    """Write what `WORLD` consists of."""
    lines = [f"actions = {json.dumps(raw['actions'])}"]
    for key in ("iommu", "device", "process"):
        lines += [f"[[{key}]]", *(f"{name} = {json.dumps(value)}" for name, value in raw[key][0].items())]
    return "\n".join(lines) + "\n"
