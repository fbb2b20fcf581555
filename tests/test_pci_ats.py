"""pci_enable_pasid(): the order of its checks, who calls it, and what a device without PASIDs is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import convert

from pasidlab.description import DeviceSpec, IommuSpec, MachineSpec, ProcessSpec
from pasidlab.errors import Errno, InputError
from pasidlab.linux.kernel import Kernel
from pasidlab.linux.pci_ats import (
    PCI_PASID_CAP_EXEC,
    PCI_PASID_CAP_PRIV,
    enable_pasid_at_probe,
    pci_enable_pasid,
    pci_max_pasids,
    pci_pasid_enabled,
    pci_pasid_features,
    why_not_enabled,
)
from pasidlab.linux.structs import Device
from pasidlab.machine import Machine
from pasidlab.rules import Refusal
from pasidlab.schemes import Mainline


def function(name: str = "dev", width: int | None = 16, **keys: Any) -> Device:
    return Device(Kernel(Mainline()), name, pci=True, pci_pasid_width=width, **keys)


def refused(refusal: Refusal | None) -> tuple[str, Errno] | None:
    return None if refusal is None else (refusal.rule.id.removeprefix("enable-pasid."), refusal.errno)


# --- the checks ----------------------------------------------------------------------------------------------

BREAKS: list[tuple[str, str, Any, Errno]] = [
    ("already", "pasid_enabled", True, Errno.EBUSY),
    ("no-prefix-path", "prefix_path", False, Errno.EINVAL),
    ("no-capability", "pci_pasid_width", None, Errno.EINVAL),
    ("no-acs", "acs_path", False, Errno.EINVAL),
    ("features", "pasid_features", 0, Errno.EINVAL),
]
"""What makes each check fail, in the order of Linux."""


@given(st.sets(st.integers(0, len(BREAKS) - 1), min_size=1))
def test_the_first_check_in_linuxs_order_answers(broken: set[int]) -> None:
    dev = function()
    for index in broken:
        setattr(dev, BREAKS[index][1], BREAKS[index][2])
    rule, _, _, errno = BREAKS[min(broken)]
    assert refused(pci_enable_pasid(dev, PCI_PASID_CAP_EXEC)) == (rule, errno)


def test_a_kernel_without_the_option_answers_before_any_check() -> None:
    dev = function(prefix_path=False)
    dev.kernel.not_built = frozenset({"PCI_PASID"})
    assert refused(pci_enable_pasid(dev)) == ("not-built", Errno.EINVAL)
    assert (pci_max_pasids(dev), pci_pasid_features(dev)) == (0, None)


def test_success_switches_pasid_on_and_a_second_call_finds_it_on() -> None:
    dev = function()
    assert not pci_pasid_enabled(dev)
    assert pci_enable_pasid(dev) is None
    assert pci_pasid_enabled(dev)
    assert refused(pci_enable_pasid(dev)) == ("already", Errno.EBUSY)
    assert pci_pasid_enabled(dev)


def test_asking_changes_nothing() -> None:
    dev = function()
    assert why_not_enabled(dev) is None
    assert not pci_pasid_enabled(dev)


@pytest.mark.parametrize(
    ("offered", "asked", "lacking"),
    [
        (PCI_PASID_CAP_EXEC, PCI_PASID_CAP_PRIV, "privileged mode"),
        (0, PCI_PASID_CAP_EXEC | PCI_PASID_CAP_PRIV, "execute permission, privileged mode"),
        (0x6, 0x8, "0x8"),
    ],
)
def test_features_that_the_capability_lacks_are_named(offered: int, asked: int, lacking: str) -> None:
    refusal = pci_enable_pasid(function(pasid_features=offered), asked)
    assert refusal is not None
    assert refusal.why == f"dev lacks what was asked for with PASID: {lacking}"


def test_a_virtual_function_shares_the_switch_of_its_physical_one() -> None:
    physical = function("pf")
    virtual = Device(physical.kernel, "vf", pci=True, physfn=physical, prefix_path=False, acs_path=False)
    assert refused(pci_enable_pasid(virtual)) == ("physfn-off", Errno.EINVAL)
    assert pci_enable_pasid(physical) is None
    assert pci_enable_pasid(virtual) is None, "the path of a virtual function is not looked at"
    assert pci_pasid_enabled(virtual)
    assert pci_max_pasids(virtual) == 1 << 16


def test_a_probe_asks_only_devices_with_the_capability_for_all_they_offer() -> None:
    dev, without = function(pasid_features=PCI_PASID_CAP_EXEC), function(width=None)
    assert enable_pasid_at_probe(dev)
    assert not enable_pasid_at_probe(without)
    assert without.pasid_refused is None, "nobody asked"


def test_a_failure_that_nothing_explains_has_a_rule_of_its_own_and_comes_last() -> None:
    dev, narrow = function(), function(acs_path=False)
    dev.pasid_fails = narrow.pasid_fails = True
    assert not enable_pasid_at_probe(dev)
    assert refused(dev.pasid_refused) == ("failed", Errno.EINVAL)
    assert not enable_pasid_at_probe(narrow)
    assert refused(narrow.pasid_refused) == ("no-acs", Errno.EINVAL)


# --- on machines ---------------------------------------------------------------------------------------------

MODELS: dict[str, dict[str, Any]] = {
    "mock": {},
    "amd-vi": {"ops": "amd-vi"},
    "mock intel-vtd": {"ops": "intel-vtd"},
    "mock arm-smmu-v3": {"ops": "arm-smmu-v3"},
    "arm-smmu-v3": {"model": "arm-smmu-v3"},
    "intel-vtd": {"model": "intel-vtd"},
}
BIND_WITHOUT_PASID = {
    "mock": ("EINVAL", "driver.pasid-off"),
    "amd-vi": ("EINVAL", "driver.pasid-off"),
    "mock intel-vtd": ("EINVAL", "driver.pasid-off"),
    "mock arm-smmu-v3": ("ok", "bind.domain-new"),
    "arm-smmu-v3": ("ok", "bind.domain-new"),
    "intel-vtd": ("EINVAL", "intel.sva-no-pasid-or-ats"),
}


def machine(model: str, *devices: DeviceSpec, **keys: Any) -> Machine:
    iommu = convert({"name": "iommu0", **MODELS[model]}, IommuSpec)
    return Machine(MachineSpec(iommu=[iommu], device=list(devices), process=[ProcessSpec("a")], **keys))


def pcie(name: str = "dev", **keys: Any) -> DeviceSpec:
    return DeviceSpec(name, "iommu0", **({"kind": "pcie", "pasid_bits": 8} | keys))


@pytest.mark.parametrize("model", MODELS)
def test_a_device_on_a_good_path_has_pasid_on_and_is_bound(model: str) -> None:
    m = machine(model, pcie())
    outcome = m.enable_pasid("dev")
    assert (outcome.result, outcome.rule, outcome.why) == ("ok", "enable-pasid.done", "PASID is on in dev")
    assert m.bind_device("dev", "a").result == "ok"


@pytest.mark.parametrize(("key", "rule"), [("prefix_path", "no-prefix-path"), ("acs_path", "no-acs")])
@pytest.mark.parametrize("model", MODELS)
def test_a_broken_path_keeps_pasid_off_and_max_pasids_as_it_was(model: str, key: str, rule: str) -> None:
    m = machine(model, pcie(**{key: False}))
    outcome = m.enable_pasid("dev")
    assert (outcome.result, outcome.rule) == ("EINVAL", f"enable-pasid.{rule}")
    dev = m.endpoints["dev"].dev
    assert not pci_pasid_enabled(dev)
    assert dev.max_pasids == 256
    bind = m.bind_device("dev", "a")
    assert (bind.result, bind.rule) == BIND_WITHOUT_PASID[model]
    if bind.result != "ok":
        assert outcome.why in bind.why


@pytest.mark.parametrize("model", MODELS)
def test_what_was_seen_to_be_on_counts_more_than_the_path(model: str) -> None:
    m = machine(model, pcie(prefix_path=False, acs_path=False, pasid_enabled=True))
    assert m.enable_pasid("dev").result == "ok"


@pytest.mark.parametrize("model", MODELS)
def test_pasid_enabled_false_is_a_failure_of_unknown_cause(model: str) -> None:
    outcome = machine(model, pcie(pasid_enabled=False)).enable_pasid("dev")
    assert (outcome.result, outcome.rule) == ("EINVAL", "enable-pasid.failed")


def test_amd_refuses_a_replacement_before_it_looks_at_pasid() -> None:
    m = machine("amd-vi", pcie(), pcie("off", prefix_path=False))
    for name, errno in (("dev", Errno.EOPNOTSUPP), ("off", Errno.EOPNOTSUPP)):
        dev = m.endpoints[name].dev
        domain = m.parts.mock.domain_alloc_sva(dev, m.processes["a"].mm)
        assert not isinstance(domain, Refusal)
        refusal = m.parts.mock.set_dev_pasid(domain, dev, 1, domain)
        assert refusal is not None
        assert refusal.errno is errno


@pytest.mark.parametrize("model", MODELS)
def test_virtual_functions_fall_and_stand_with_the_physical_one(model: str) -> None:
    for path, result in ((True, "ok"), (False, "EINVAL")):
        m = machine(model, pcie("pf", prefix_path=path), pcie("vf", pasid_bits=None, physfn="pf"))
        assert m.enable_pasid("vf").result == result
        assert (m.enable_pasid("vf").rule == "enable-pasid.physfn-off") is not path


def test_where_no_driver_asks_the_answer_says_so() -> None:
    alone = Machine(MachineSpec(device=[DeviceSpec("dev", pasid_bits=8), DeviceSpec("without")]))
    outcome = alone.enable_pasid("dev")
    assert (outcome.result, outcome.rule) == ("ENODEV", "enable-pasid.nobody-asks")
    assert outcome.why == "no IOMMU driver switches PASID on in dev: it is behind none"
    assert alone.enable_pasid("without").rule == "enable-pasid.no-capability"
    legacy = Machine(
        MachineSpec(
            iommu=[IommuSpec("vtd", model="intel-vtd", scalable=False)], device=[DeviceSpec("d", "vtd", pasid_bits=8)]
        )
    )
    assert legacy.enable_pasid("d").why.endswith("vtd works without PASIDs")


def test_a_platform_device_has_no_such_switch() -> None:
    m = machine("mock", DeviceSpec("npu", "iommu0", kind="narrow", pasid_bits=2))
    with pytest.raises(InputError, match=r"device 'npu': of the platform bus; only a PCI function"):
        m.enable_pasid("npu")
    with pytest.raises(InputError, match=r"device 'x': no such device; known: npu"):
        m.enable_pasid("x")


def test_dsa_hardware_has_pasid_off_where_it_could_not_be_switched_on() -> None:
    good, bad = (machine("mock", pcie(kind="dsa", acs_path=path)) for path in (True, False))
    assert [m.endpoints["dev"].hw.pasid_enabled for m in (good, bad)] == [True, False]


# --- page requests behind VT-d -------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["v6.12", "v7.3"])
def test_vtd_leaves_page_requests_off_where_their_answers_would_have_no_pasid(kernel: str) -> None:
    switches = {"x86_sva_refused": False}
    m = machine("intel-vtd", pcie(prg_pasid=False), kernel=kernel, switches=switches)
    outcome = m.bind("dev", "a")
    assert (outcome.result, outcome.rule) == ("EINVAL", "intel.sva-pri-off")
    assert "it does not want PASIDs in the answers" in outcome.why


def test_a_device_without_page_requests_does_not_need_that() -> None:
    assert machine("intel-vtd", pcie(prg_pasid=False, pri=False)).bind("dev", "a").result == "ok"


def test_without_pasid_page_requests_need_no_pasid_in_the_answers() -> None:
    m = machine("intel-vtd", pcie(prg_pasid=False, pasid_enabled=False))
    assert m.parts.vtds.infos[m.endpoints["dev"].dev].pri_enabled


def test_a_virtual_function_wants_what_its_physical_one_wants() -> None:
    m = machine("intel-vtd", pcie("pf", prg_pasid=False), pcie("vf", pasid_bits=None, physfn="pf"))
    assert m.bind("vf", "a").rule == "intel.sva-pri-off"
