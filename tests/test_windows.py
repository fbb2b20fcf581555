"""The windows between the steps in which an IOMMU's driver takes an entry away: where they are, and what fits in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pasidlab.description import CpuSpec, DeviceSpec, IommuSpec, MachineSpec, ProcessSpec
from pasidlab.devices import Work
from pasidlab.errors import InputError
from pasidlab.machine import Machine
from pasidlab.runner import machine_at, run
from pasidlab.scenario import Scenario

from .conftest import ROOT, Command

WORK = Work()
SHIPPED = ROOT / "scenarios" / "detach_atc_before_iotlb.toml"

MOCK = {"caches": True}
SMMU = {"model": "arm-smmu-v3", "pasid_bits": 8}
SMMU_ATS = SMMU | {"ats": True}
VTD = {"model": "intel-vtd"}


def machine_of(iommu: dict[str, Any], *, kernel: str = "v7.3", devices: int = 1, **device: Any) -> Machine:
    spec = MachineSpec(
        kernel=kernel,
        cpu=CpuSpec(arch="arm64"),
        iommu=[IommuSpec("iommu0", **iommu)],
        device=[DeviceSpec(f"dev{number}", "iommu0", pasid_bits=2, **device) for number in range(devices)],
        process=[ProcessSpec("a"), ProcessSpec("b")],
    )
    return Machine(spec, "hybrid")


def bound(machine: Machine) -> Machine:
    """Bind a at number 3 of each device and let it work there, so that whatever can be cached is.

    The page is there before, since Linux's SMMU driver denies what a device with ATS asks for.
    """
    machine.store("a", WORK.address, b"own")
    for device in machine.endpoints:
        assert machine.bind_device_pasid(device, "a", 3, device).result == "ok"
        assert machine.submit("a", device, None, WORK).work.owner == "a"
    return machine


def windows_of(machine: Machine, call: Callable[[], Any]) -> list[str]:
    seen: list[str] = []
    machine.kernel.at_window = seen.append
    call()
    machine.kernel.at_window = None
    return seen


def in_windows(machine: Machine, call: Callable[[], Any]) -> list[tuple[str, str]]:
    """Let a's device work in every window of a call; return whose memory it reached, or that it faulted."""
    seen: list[tuple[str, str]] = []

    def at_window(step: str) -> None:
        outcome = machine.dma("dev0", 3, WORK)
        seen.append((step, outcome.work.owner if outcome.work else outcome.result))

    machine.kernel.at_window = at_window
    call()
    machine.kernel.at_window = None
    return seen


UNBIND = [
    pytest.param(MOCK, ["table", "iotlb"], id="mock"),
    pytest.param({}, [], id="mock without caches"),
    pytest.param(MOCK | {"detach": ["table"]}, [], id="mock, table only"),
    pytest.param(MOCK | {"detach": ["atc", "table"]}, ["atc"], id="mock, another order"),
    pytest.param(SMMU, ["table"], id="smmu"),
    pytest.param(SMMU_ATS, ["table", "atc"], id="smmu with ATS"),
    pytest.param(SMMU_ATS | {"detach": ["iotlb", "atc", "table"]}, ["iotlb", "atc"], id="smmu, another order"),
    pytest.param(VTD, ["table", "iotlb"], id="vtd"),
]
END = [
    pytest.param(MOCK, ["table", "iotlb"], id="mock"),
    pytest.param({}, [], id="mock without caches"),
    pytest.param(MOCK | {"detach": ["table"]}, [], id="mock, table only"),
    pytest.param(MOCK | {"detach": ["atc", "table"]}, ["atc"], id="mock, another order"),
    pytest.param(MOCK | {"detach": ["atc", "iotlb", "table"]}, ["atc", "iotlb"], id="mock, quiet comes last"),
    pytest.param(SMMU_ATS, ["table", "iotlb"], id="smmu with ATS"),
    pytest.param(SMMU_ATS | {"detach": ["atc", "table", "iotlb"]}, ["atc", "table"], id="smmu, another order"),
    pytest.param(VTD, ["table", "iotlb"], id="vtd"),
]


class TestWhereTheyAre:
    @pytest.mark.parametrize(("iommu", "windows"), UNBIND)
    @pytest.mark.parametrize("kernel", ["v6.12", "v7.3"])
    def test_an_unbind_stands_after_each_step_but_the_last(
        self, iommu: dict[str, Any], windows: list[str], kernel: str
    ) -> None:
        machine = bound(machine_of(iommu, kernel=kernel))
        assert windows_of(machine, lambda: machine.unbind("dev0")) == windows

    @pytest.mark.parametrize(("iommu", "windows"), END)
    @pytest.mark.parametrize("kernel", ["v6.12", "v7.3"])
    def test_the_end_of_an_address_space_does_the_steps_in_the_same_order(
        self, iommu: dict[str, Any], windows: list[str], kernel: str
    ) -> None:
        machine = bound(machine_of(iommu, kernel=kernel))
        assert windows_of(machine, lambda: machine.exit_mm("a")) == windows

    def test_the_end_is_once_for_all_devices_of_a_mock(self) -> None:
        machine = bound(machine_of(MOCK, devices=3))
        assert windows_of(machine, lambda: machine.exit_mm("a")) == ["table", "iotlb"]

    @pytest.mark.parametrize("iommu", [MOCK, SMMU_ATS, VTD], ids=["mock", "smmu", "vtd"])
    def test_nothing_else_has_windows(self, iommu: dict[str, Any]) -> None:
        machine = machine_of(iommu)
        calls = [
            lambda: machine.bind_device_pasid("dev0", "a", 3, "one"),
            lambda: machine.bind_device_pasid("dev0", "a", 3, "two"),
            lambda: machine.submit("a", "dev0", None, WORK),
            lambda: machine.unbind("one"),
            lambda: machine.munmap("a", 0x2000_0000),
            lambda: machine.exit("b"),
        ]
        assert [windows_of(machine, call) for call in calls] == [[]] * len(calls)

    def test_a_detach_of_a_kernel_managed_domain_has_them_too(self) -> None:
        machine = machine_of(MOCK)
        machine.attach("dev0", 3)
        assert windows_of(machine, lambda: machine.detach("dev0", 3)) == ["table", "iotlb"]

    def test_in_a_window_the_bond_is_still_there_and_the_entry_is_not(self) -> None:
        machine, seen = bound(machine_of(MOCK)), []
        dev = machine.endpoints["dev0"].dev

        def at_window(step: str) -> None:
            driver = machine.parts.mock
            held = (3 in dev.iommu_group.pasid_array, (dev, 3) in driver.entries)
            seen.append((step, *held, (dev, 3) in driver.iotlb, (dev, 3) in driver.atc))

        machine.kernel.at_window = at_window
        machine.unbind("dev0")
        assert seen == [("table", True, False, True, True), ("iotlb", True, False, False, True)]


class TestWhatDevicesReach:
    def test_a_mock_answers_out_of_its_caches_until_both_are_empty(self) -> None:
        machine = bound(machine_of(MOCK))
        assert in_windows(machine, lambda: machine.unbind("dev0")) == [("table", "a"), ("iotlb", "a")]
        assert machine.dma("dev0", 3, WORK).result == "fault"

    def test_an_smmu_answers_nothing_without_the_descriptor_but_atcs_do(self) -> None:
        for iommu, reached in ((SMMU, ["fault"]), (SMMU_ATS, ["a", "fault"])):
            machine = bound(machine_of(iommu))
            seen = in_windows(machine, lambda machine=machine: machine.unbind("dev0"))
            assert [owner for _, owner in seen] == reached
            assert machine.dma("dev0", 3, WORK).result == "fault"

    def test_a_vtd_unit_answers_nothing_without_the_entry_but_device_tlbs_do(self) -> None:
        machine = bound(machine_of(VTD))
        assert in_windows(machine, lambda: machine.unbind("dev0")) == [("table", "a"), ("iotlb", "a")]
        assert machine.dma("dev0", 3, WORK).result == "fault"

    @pytest.mark.parametrize("iommu", [MOCK, SMMU_ATS, VTD], ids=["mock", "smmu", "vtd"])
    def test_at_the_end_of_an_address_space_its_pages_are_still_its_own(self, iommu: dict[str, Any]) -> None:
        machine = bound(machine_of(iommu))
        assert {owner for _, owner in in_windows(machine, lambda: machine.exit_mm("a"))} == {"a"}
        assert machine.dma("dev0", 3, WORK).result == "fault"

    @pytest.mark.parametrize("iommu", [MOCK, SMMU_ATS], ids=["mock", "smmu"])
    def test_an_atc_that_is_invalidated_before_the_table_fills_again(self, iommu: dict[str, Any]) -> None:
        machine = bound(machine_of(iommu | {"detach": ["atc", "table", "iotlb"]}))
        assert in_windows(machine, lambda: machine.unbind("dev0"))[0] == ("atc", "a")
        assert machine.dma("dev0", 3, WORK).work.owner == "a"

    @pytest.mark.parametrize("iommu", [MOCK, SMMU_ATS], ids=["mock", "smmu"])
    def test_an_atc_that_is_not_invalidated_reaches_what_is_not_the_processs_any_more(
        self, iommu: dict[str, Any]
    ) -> None:
        machine = bound(machine_of(iommu | {"detach": ["table", "iotlb"]}))
        machine.unbind("dev0")
        assert machine.dma("dev0", 3, WORK).work.owner == "a"
        machine.exit("a")
        assert machine.dma("dev0", 3, WORK).work.owner in ("freed memory",)

    @pytest.mark.parametrize("kernel", ["v6.12", "v7.3"])
    def test_an_smmus_tlb_that_is_not_invalidated_serves_the_next_asid(self, kernel: str) -> None:
        """ASIDs are given out again, and TLB entries are found by them."""
        owners = {}
        for name, detach in (("linux", None), ("left out", ["table", "atc"])):
            machine = bound(machine_of(SMMU | {"detach": detach}, kernel=kernel))
            machine.unbind("dev0")
            machine.bind_device_pasid("dev0", "b", 3)
            owners[name] = machine.submit("b", "dev0", None, WORK).work.owner
        assert owners == {"linux": "b", "left out": "a"}

    def test_work_in_a_window_leaves_the_outcome_of_the_call_alone(self) -> None:
        machine = bound(machine_of(MOCK))
        machine.attach("dev0", 2)
        plain = machine_of(MOCK)
        plain.attach("dev0", 2)
        machine.kernel.at_window = lambda step: machine.aside().__enter__()
        assert machine.detach("dev0", 2) == plain.detach("dev0", 2)


DESCRIBED = """
[[iommu]]
name = "iommu0"
caches = true
{iommu}
[[device]]
name = "dev0"
iommu = "iommu0"
pasid_bits = 2
[[process]]
name = "a"
[[process]]
name = "b"
"""
BEGIN = (
    'do = "bind"\ndevice = "dev0"\nprocess = "a"\nas = "queue"',
    'do = "submit"\nprocess = "a"\ndevice = "dev0"',
    'do = "submit"\nprocess = "a"\ndevice = "dev0"\njob = "one"',
    'do = "submit"\nprocess = "a"\ndevice = "dev0"\njob = "two"',
)
UNBIND_ONLY = 'do = "unbind"\nhandle = "queue"\nstop = false\ndrain = false'


def complete(job: str, during: str) -> str:
    return f'do = "complete"\njob = "{job}"\nduring = "{during}"'


def scenario(tmp_path: Any, *steps: str, iommu: str = "") -> Scenario:
    path = tmp_path / "scenario.toml"
    path.write_text(DESCRIBED.format(iommu=iommu) + "".join(f"[[step]]\n{step}\n" for step in steps))
    return Scenario.load(path)


class TestDuring:
    def test_steps_happen_inside_the_call_and_are_reported_in_the_order_of_the_file(self, tmp_path: Any) -> None:
        (report,) = run(
            scenario(tmp_path, *BEGIN, UNBIND_ONLY, complete("one", "table"), complete("two", "iotlb")), "mainline"
        )
        last = report.steps[-3:]
        assert [(step.number, step.do, step.during, step.result) for step in last] == [
            (5, "unbind", "", "ok"),
            (6, "complete", "table", "ok"),
            (7, "complete", "iotlb", "ok"),
        ]
        assert last[0].outcome.rule == "unbind.last"
        assert [step.outcome.work.owner for step in last[1:]] == ["a", "a"]
        assert last[1].as_dict("mainline")["during"] == "table"

    def test_several_steps_fit_into_one_window(self, tmp_path: Any) -> None:
        steps = (complete("one", "iotlb"), complete("two", "iotlb"))
        (report,) = run(scenario(tmp_path, *BEGIN, UNBIND_ONLY, *steps), "mainline")
        assert [step.result for step in report.steps[-2:]] == ["ok", "ok"]

    def test_a_window_that_is_over_or_never_comes_is_enoent_and_nothing_happens(self, tmp_path: Any) -> None:
        for windows, results in (
            (("iotlb", "table"), ["ok", "ENOENT"]),
            (("atc", "table"), ["ENOENT", "ENOENT"]),
        ):
            inside = [complete(job, window) for job, window in zip(("one", "two"), windows, strict=True)]
            written = scenario(tmp_path, *BEGIN, UNBIND_ONLY, *inside)
            (report,) = run(written, "mainline")
            assert [step.result for step in report.steps[-2:]] == results
            assert report.steps[-1].outcome.rule == "during.not-reached"
            assert "two" in machine_at(written).jobs

    def test_a_window_that_comes_again_takes_the_next_step(self, tmp_path: Any) -> None:
        """An exit stands in windows for the address space, then for each file."""
        steps = ('do = "exit"\nprocess = "a"', complete("one", "iotlb"), complete("two", "table"))
        (report,) = run(scenario(tmp_path, *BEGIN, *steps), "mainline")
        assert [step.outcome.rule for step in report.steps[-2:]] == ["register.used", "job.none"]

    def test_the_machine_at_a_step_has_done_only_what_stands_before_it(self, tmp_path: Any) -> None:
        written = scenario(tmp_path, *BEGIN, UNBIND_ONLY, complete("one", "table"), complete("two", "iotlb"))
        left = [list(machine_at(written, steps=steps).jobs) for steps in (5, 6, 7)]
        assert left == [["one", "two"], ["two"], []]

    def test_a_step_after_the_call_is_outside(self, tmp_path: Any) -> None:
        steps = (complete("one", "table"), 'do = "complete"\njob = "two"')
        (report,) = run(scenario(tmp_path, *BEGIN, UNBIND_ONLY, *steps), "mainline")
        assert [step.result for step in report.steps[-2:]] == ["ok", "fault"]

    def test_nobody_stands_at_a_window_when_the_run_is_over(self, tmp_path: Any) -> None:
        machine = machine_at(scenario(tmp_path, *BEGIN, UNBIND_ONLY, complete("one", "table")))
        assert machine.kernel.at_window is None

    def test_there_must_be_a_call_to_be_inside(self, tmp_path: Any) -> None:
        with pytest.raises(InputError, match=r"step\[0\]\.during = 'table': there is no step before it"):
            scenario(tmp_path, 'do = "show"\nduring = "table"')

    def test_calls_of_the_kernel_wait_for_each_other(self, tmp_path: Any) -> None:
        bind = 'do = "bind"\ndevice = "dev0"\nprocess = "b"\nduring = "table"'
        with pytest.raises(InputError, match=r"step\[5\]\.during = 'table': bind waits until that call is over"):
            scenario(tmp_path, *BEGIN, UNBIND_ONLY, bind)

    def test_a_window_has_one_of_three_names(self, tmp_path: Any) -> None:
        with pytest.raises(InputError, match=r"step\[5\]\.during.*'cache'.*(table|iotlb)"):
            scenario(tmp_path, *BEGIN, UNBIND_ONLY, complete("one", "cache"))

    def test_the_table_of_a_run_tells_the_window(self, pasidlab: Command) -> None:
        done = pasidlab("run", SHIPPED, "--scheme", "rfc")
        assert "complete late work (during atc)" in done.out
        assert "ok 1 in freed memory, not b" in done.out


@pytest.mark.parametrize("model", ["mock", "arm-smmu-v3", "intel-vtd"])
def test_the_shipped_scenario_meets_its_expectations_on_every_model(model: str) -> None:
    assert [report.met for report in run(SHIPPED, "all", model=model)] == [True] * 4
