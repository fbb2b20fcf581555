"""Every shipped scenario on Intel VT-d units: the same outcomes as on mocks, whatever the unit is like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from pasidlab.description import INTEL_VTD, on_model
from pasidlab.hw.vtd.registers import Fsts, Offset, Prs
from pasidlab.machine import Machine
from pasidlab.runner import run
from pasidlab.scenario import Scenario

from .conftest import ROOT
from .scenario_outcomes import FILES as ALL_FILES
from .scenario_outcomes import differences, done_by_devices, on_mocks, scenario_of, unmet

SHARED_DID = ROOT / "scenarios" / "vtd_shared_did.toml"
"""Shows where VT-d, with one domain identifier for all, differs from other IOMMUs."""
FILES = [path for path in ALL_FILES if path != SHARED_DID]
UNITS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no caches": {"caches": False},
    "caching mode": {"caching_mode": True},
    "5 levels": {"la57": True},
}

every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def on_units(scenario: Scenario, *, la57: bool = False, **unit: Any) -> Scenario:
    scenario = on_model(scenario, INTEL_VTD)
    iommus = [msgspec.structs.replace(iommu, **unit) for iommu in scenario.iommu]
    cpu = msgspec.structs.replace(scenario.cpu, la57=la57)
    return msgspec.structs.replace(scenario, cpu=cpu, iommu=iommus)


@pytest.mark.parametrize("unit", UNITS.values(), ids=list(UNITS))
@every_file
def test_a_scenario_ends_on_vtd_as_on_a_mock_under_every_scheme(path: Path, unit: dict[str, Any]) -> None:
    reports = run(on_units(scenario_of(path), **unit), "all")
    assert differences(on_mocks(path), reports) == []
    assert unmet(reports) == []


def test_devices_reach_memory_through_the_unit_in_most_scenarios() -> None:
    """Equality would be cheap if nothing ever moved."""
    assert done_by_devices(report for path in FILES for report in on_mocks(path)) > len(FILES)


@every_file
def test_the_unit_has_stopped_no_queue_and_lost_no_request(path: Path) -> None:
    machine = Machine(on_units(scenario_of(path)), "mainline")
    for step in scenario_of(path).step:
        step.perform(machine)
    for instance in machine.parts.vtds.instances.values():
        status = Fsts(instance.hw.mmio_read(Offset.FSTS, 4))
        assert (status.iqe, status.ite, status.ice, status.pfo) == (False,) * 4
        assert instance.hw.mmio_read(Offset.IQH, 8) == instance.hw.mmio_read(Offset.IQT, 8)
        assert not Prs(instance.hw.mmio_read(Offset.PRS, 4)).pro
        assert instance.hw.mmio_read(Offset.PQH, 8) == instance.hw.mmio_read(Offset.PQT, 8)


def test_one_domain_identifier_for_all_mixes_up_what_is_cached_and_nothing_else() -> None:
    owners = {
        caches: [report.steps[3].outcome.work.owner for report in run(on_units(scenario_of(SHARED_DID), caches=caches))]  # type: ignore[union-attr]
        for caches in (True, False)
    }
    assert owners == {True: ["b", "a", "a", "a"], False: ["b", "b", "b", "b"]}


HOLE = ROOT / "scenarios" / "vtd_portal_hole.toml"


@pytest.mark.parametrize("guard", ["mmap", "range", "declared"])
def test_each_guard_keeps_the_bytes_of_b_on_vtd_tables(guard: str) -> None:
    (open_,) = run(scenario_of(HOLE), "hybrid")
    assert open_.steps[3].trespass
    assert _loaded(open_) == b"written by a"
    (guarded,) = run(scenario_of(HOLE), "hybrid", options={"guard": guard})
    assert not any(step.trespass for step in guarded.steps)
    assert _loaded(guarded) == b"b b b b b b "


def test_a_descriptor_that_touches_no_memory_is_no_trespass(tmp_path: Path) -> None:
    noop = tmp_path / "noop.toml"
    names = 'device = "dsa0"\nprocess = "a"\n'
    steps = "".join(f'[[step]]\ndo = "{verb}"\n{names}' for verb in ("bind", "mmap_portal", "descriptor"))
    device = '[[device]]\nname = "dsa0"\niommu = "vtd0"\nkind = "dsa"\npasid_bits = 20\n'
    unit = '[[iommu]]\nname = "vtd0"\nmodel = "intel-vtd"\n'
    noop.write_text(f'{unit}{device}[[process]]\nname = "a"\n{steps}operation = "noop"\n')
    (report,) = run(str(noop), "mainline")
    assert (report.steps[2].outcome.result, report.steps[2].trespass) == ("ok", "")


def _loaded(report: Any) -> bytes:
    work = report.steps[4].outcome.work
    assert work is not None
    return bytes(work.data)
