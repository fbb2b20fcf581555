"""Every shipped scenario on Arm SMMUv3s: the same outcomes as on mocks, whatever the SMMU is like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from pasidlab.description import operating_system
from pasidlab.hw.smmuv3.registers import Offset
from pasidlab.linux.traps import X86Os
from pasidlab.machine import Machine
from pasidlab.runner import run
from pasidlab.scenario import Scenario

from .scenario_outcomes import FILES as ALL_FILES
from .scenario_outcomes import differences, done_by_devices, on_mocks, scenario_of, unmet


def is_for_mocks(path: Path) -> bool:
    return all(iommu.model == "mock" for iommu in scenario_of(path).iommu)


FILES = [path for path in ALL_FILES if is_for_mocks(path)]
ARM_FILES = [path for path in FILES if not isinstance(operating_system(scenario_of(path)), X86Os)]

SMMUS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no caches": {"caches": False},
    "one level": {"two_level": False, "sid_bits": 6},
}
PAGE_SIZES = (16384, 65536)

every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def on_smmus(scenario: Scenario, **smmu: Any) -> Scenario:
    iommus = [msgspec.structs.replace(iommu, model="arm-smmu-v3", **smmu) for iommu in scenario.iommu]
    return msgspec.structs.replace(scenario, iommu=iommus)


def with_pages(scenario: Scenario, page_size: int) -> Scenario:
    return msgspec.structs.replace(scenario, cpu=msgspec.structs.replace(scenario.cpu, page_size=page_size))


@pytest.mark.parametrize("smmu", SMMUS.values(), ids=list(SMMUS))
@every_file
def test_a_scenario_ends_on_an_smmu_as_on_a_mock_under_every_scheme(path: Path, smmu: dict[str, Any]) -> None:
    reports = run(on_smmus(scenario_of(path), **smmu), "all")
    assert differences(on_mocks(path), reports) == []
    assert unmet(reports) == []


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("path", ARM_FILES, ids=lambda path: path.stem)
def test_larger_pages_lead_to_the_same_as_on_a_mock(path: Path, page_size: int) -> None:
    scenario = with_pages(scenario_of(path), page_size)
    mock = run(scenario, "mainline,hybrid")
    smmu = run(on_smmus(scenario, granule=page_size), "mainline,hybrid")
    assert differences(mock, smmu) == []
    assert unmet(smmu) == unmet(mock)


def test_scenarios_were_not_left_out() -> None:
    assert len(FILES) > 50
    assert sum(bool(scenario_of(path).iommu) for path in FILES) > 50
    assert len(ARM_FILES) > 20


def test_devices_reach_memory_through_the_smmu_in_most_scenarios() -> None:
    """Equality would be cheap if nothing ever moved."""
    assert done_by_devices(report for path in FILES for report in on_mocks(path)) > len(FILES)


@every_file
def test_the_smmu_has_stopped_no_command_and_reported_no_error(path: Path) -> None:
    scenario = on_smmus(scenario_of(path))
    machine = Machine(scenario, "mainline")
    for step in scenario.step:
        step.perform(machine)
    for instance in machine.parts.smmus.instances.values():
        assert instance.hw.mmio_read(Offset.GERROR, 4) == instance.hw.mmio_read(Offset.GERRORN, 4) == 0
        assert instance.hw.mmio_read(Offset.CMDQ_PROD, 4) == instance.hw.mmio_read(Offset.CMDQ_CONS, 4)
