import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.devices.idxd.refusals import Scmd
from pasidlab.devices.idxd.registers import Swerr
from pasidlab.hw.vtd.features import Features
from pasidlab.platforms.amd import Efr
from pasidlab.platforms.host.dsa import accelerators, command_meaning, dsa_says
from pasidlab.platforms.host.iommus import first_features, iommus_say
from pasidlab.platforms.host.trees import HostTree
from pasidlab.platforms.host.uacce import uacce_devices, uacce_says
from pasidlab.platforms.said import Endpoint, Iommu, Rid, Said
from tests.dict_tree import DictTree, Link

CLASS, PCI, PLATFORM = "sys/class/iommu", "sys/bus/pci/devices", "sys/bus/platform/devices"
GROUPS, DSA, UACCE = "sys/kernel/iommu_groups", "sys/bus/dsa/devices", "sys/class/uacce"


def say(files: Mapping[str, str]) -> Said:
    return iommus_say(DictTree(files))


def values(one: Iommu | Endpoint) -> dict[str, object]:
    return {key: known.value for key, known in one.keys.items()}


def dmar(name: str = "dmar0", **registers: str) -> dict[str, str]:
    return {f"{CLASS}/{name}/intel-iommu/{key}": text for key, text in registers.items()}


def unit(features: Features) -> dict[str, object]:
    registers = {"address": "fed90000\n", "cap": f"{features.cap():x}\n", "ecap": f"{features.ecap():x}\n"}
    said = say(dmar(**registers))
    assert said.iommus[0].base == 0xFED90000
    return values(said.iommus[0])


# --- VT-d ----------------------------------------------------------------------------------------------------------


def test_a_units_registers_are_its_keys() -> None:
    assert unit(Features(pasid_bits=15, caching_mode=True)) == {
        "five_level": True,
        "first_1g": True,
        "caching_mode": True,
        "pasid_bits": 15,
        "scalable": True,
        "ats": True,
        "pri": True,
        "sva": True,
    }


@pytest.mark.parametrize(
    ("features", "key", "value"),
    [
        (Features(pasid_bits=0), "pasid_bits", 0),
        (Features(pasid_bits=0), "sva", False),
        (Features(scalable=False), "scalable", False),
        (Features(scalable=False), "sva", False),
        (Features(coherent=False), "sva", False),
        (Features(first_stage=False), "sva", False),
        (Features(first_1g=False), "first_1g", False),
        (Features(five_level=False), "five_level", False),
        (Features(page_requests=False), "pri", False),
        (Features(page_requests=False, device_tlb=False), "ats", False),
    ],
)
def test_what_a_unit_lacks_is_told(features: Features, key: str, value: object) -> None:
    assert unit(features)[key] == value


def test_page_requests_without_device_tlbs_are_none() -> None:
    ecap = Features().ecap().replace(dt=False)
    assert values(say(dmar(ecap=f"{ecap:x}")).iommus[0])["pri"] is False


def test_an_origin_tells_file_value_and_bits() -> None:
    place = f"{CLASS}/dmar0/intel-iommu"
    keys = say(dmar(cap="1000000000000000", ecap="19800000000")).iommus[0].keys
    assert keys["pasid_bits"] == (20, f"{place}/ecap 0x19800000000, bits 39:35 (PSS)")
    assert keys["five_level"] == (True, f"{place}/cap 0x1000000000000000, bit 60 (FS5LP)")
    without = say(dmar(ecap="9800000000")).iommus[0].keys
    assert without["pasid_bits"] == (0, f"{place}/ecap 0x9800000000, bit 40 (PASID)")


@pytest.mark.parametrize("text", ["no number", "1" * 17, "0x", "-1", "12 34"])
def test_a_register_that_is_no_number_is_a_finding(text: str) -> None:
    said = say(dmar(ecap=text))
    assert [(one.rule.id, one.why) for one in said.findings] == [
        ("sysfs.not-a-number", f"{CLASS}/dmar0/intel-iommu/ecap: {text!r} is no register; it is not read")
    ]
    assert said.iommus[0].keys == {}


def test_a_unit_of_which_nothing_can_be_read_is_still_named() -> None:
    said = say({f"{CLASS}/dmar1/uevent": "", f"{CLASS}/dmar1/intel-iommu/ecap": ""})
    assert [(one.name, one.kind, one.base, one.keys) for one in said.iommus] == [("dmar1", "intel-vtd", None, {})]


# --- AMD -----------------------------------------------------------------------------------------------------------

SVA = Efr(pprsup=True, gtsup=True, glxsup=1, pasmax=15, giosup=True, ephsup=True)


def amd(text: str) -> dict[str, object]:
    return values(say({f"{CLASS}/ivhd0/amd-iommu/features": text}).iommus[0])


def test_amds_features_tell_pasids_and_sva() -> None:
    assert amd(f"{SVA:x}\n") == {"pasid_bits": 16, "max_pasids": 65535, "sva": True}


def test_without_guest_translation_there_are_no_pasids() -> None:
    assert amd(f"{SVA.replace(gtsup=0):x}") == {"pasid_bits": 0, "sva": False}


@pytest.mark.parametrize("field", ["pprsup", "giosup", "ephsup"])
def test_without_what_linux_asks_for_there_is_no_sva(field: str) -> None:
    assert amd(f"{SVA.replace(**{field: 0}):x}") == {"pasid_bits": 16, "max_pasids": 65535, "sva": False}


@pytest.mark.parametrize("order", ["{first:x}:{second:x}", "{second:x}:{first:x}"])
def test_of_two_registers_of_amd_the_first_is_found_in_either_order(order: str) -> None:
    efr = Efr(prefsup=True, pprsup=True, gtsup=True, pasmax=15)
    assert amd(order.format(first=efr, second=0x10))["pasid_bits"] == 16


def test_two_registers_that_look_alike_are_taken_in_the_order_of_newer_kernels() -> None:
    assert first_features([Efr(gtsup=True, pasmax=8), Efr(gtsup=True, pasmax=15)]).pasmax == 8


def test_amds_features_that_are_none_are_a_finding() -> None:
    said = say({f"{CLASS}/ivhd0/amd-iommu/features": "1:2:3"})
    assert [one.why for one in said.findings] == [
        f"{CLASS}/ivhd0/amd-iommu/features: '1:2:3' is no register; it is not read"
    ]


# --- others --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "base"),
    [
        ("smmu3.0x000000002b400000", "arm-smmu-v3", 0x2B400000),
        ("smmu.0x0000000003000000", "arm-smmu", 0x3000000),
        ("riscv-iommu@1bccd000.iommu", "riscv", 0x1BCCD000),
        ("riscv-iommu@0000:00:01.0", "riscv", None),
    ],
)
def test_an_iommu_is_known_by_its_name(name: str, kind: str, base: int | None) -> None:
    said = say({f"{CLASS}/{name}/uevent": ""})
    assert [(one.name, one.kind, one.base) for one in said.iommus] == [(name, kind, base)]


@pytest.mark.parametrize(
    ("name", "rid", "base"), [("0000:00:01.0", Rid(0, 8), None), ("a003e00.virtio_mmio", None, 0xA003E00)]
)
def test_a_virtio_iommu_is_known_by_where_its_link_leads(name: str, rid: Rid | None, base: int | None) -> None:
    said = say({f"{CLASS}/{name}": Link(f"../../devices/pci0000:00/{name}/virtio0/iommu/{name}")})
    assert [(one.name, one.kind, one.rid, one.base) for one in said.iommus] == [(name, "virtio-iommu", rid, base)]
    assert values(said.iommus[0]) == {"pasid_bits": 0, "sva": False}


def test_an_iommu_that_is_not_known_is_a_remark() -> None:
    said = say({f"{CLASS}/apple-dart.0/uevent": ""})
    assert (said.iommus, said.remarks) == ([], [f"{CLASS}/apple-dart.0: an IOMMU of a kind that is not known here"])


# --- devices -------------------------------------------------------------------------------------------------------


def test_a_function_is_behind_what_its_link_names_and_in_its_group() -> None:
    files = dmar() | {
        f"{CLASS}/dmar0/uevent": "",
        f"{PCI}/0000:6a:01.0/iommu": Link("../../virtual/iommu/dmar0"),
        f"{PCI}/0000:6a:01.0/iommu_group": Link("../../../kernel/iommu_groups/12"),
        f"{GROUPS}/12/type": "DMA-FQ\n",
    }
    one = say(files).endpoints[0]
    assert (one.name, one.bus, one.rid) == ("0000:6a:01.0", "pci", Rid(0, 0x6A08))
    assert values(one) == {"iommu": "dmar0", "group": "group12", "default_domain": "dma"}
    assert one.keys["iommu"].origin == f"{PCI}/0000:6a:01.0/iommu"
    assert one.keys["default_domain"].origin == f"{GROUPS}/12/type DMA-FQ"


def test_links_of_units_and_groups_tell_the_same_where_a_devices_own_are_missing() -> None:
    files = {
        f"{CLASS}/dmar3/devices/0000:e7:02.0": Link("../../../../pci0000:e7/0000:e7:02.0"),
        f"{GROUPS}/7/devices/0000:e7:02.0": Link("../../../../devices/pci0000:e7/0000:e7:02.0"),
        f"{GROUPS}/7/type": "identity",
        f"{PCI}/0000:e7:02.0/vendor": "0x8086",
    }
    one = say(files).endpoints[0]
    assert values(one) == {"iommu": "dmar3", "group": "group7", "default_domain": "identity"}
    assert one.keys["iommu"].origin == f"{CLASS}/dmar3/devices"


@pytest.mark.parametrize(
    ("text", "domain"),
    [("DMA", "dma"), ("DMA-FQ", "dma"), ("identity", "identity"), ("blocked", "blocked"), ("auto", None), ("x", None)],
)
def test_a_groups_type_is_the_domain_its_devices_start_in(text: str, domain: str | None) -> None:
    files = {f"{PCI}/0000:00:02.0/iommu_group": Link("../1"), f"{GROUPS}/1/type": text}
    assert values(say(files).endpoints[0]).get("default_domain") == domain


def test_a_function_behind_no_iommu_is_named_without_keys() -> None:
    assert [(one.name, one.keys) for one in say({f"{PCI}/0000:00:00.0/vendor": ""}).endpoints] == [("0000:00:00.0", {})]


def test_platform_devices_have_the_node_of_the_device_tree_or_of_acpi() -> None:
    iommu = {"iommu": Link("../../smmu3.0x000000002b400000")}
    files = {f"{PLATFORM}/810010000.npu/{key}": link for key, link in iommu.items()}
    files |= {f"{PLATFORM}/HISI0001:00/{key}": link for key, link in iommu.items()}
    files[f"{PLATFORM}/810010000.npu/of_node"] = Link("../../../firmware/devicetree/base/soc/npu@10000")
    files[f"{PLATFORM}/HISI0001:00/firmware_node/path"] = "\\_SB_.NPU0\n"
    files[f"{PLATFORM}/serial8250/uevent"] = ""
    seen = [(one.name, one.bus, one.node) for one in say(files).endpoints]
    assert seen == [("810010000.npu", "platform", "/soc/npu@10000"), ("HISI0001:00", "platform", "\\_SB_.NPU0")]


def test_a_real_directory_with_links_is_read_alike(tmp_path: Path) -> None:
    device = tmp_path / "sys/devices/pci0000:00/0000:00:01.0"
    unit_place = tmp_path / "sys/devices/virtual/iommu/dmar0/intel-iommu"
    for place in (device, unit_place, tmp_path / PCI, tmp_path / CLASS):
        place.mkdir(parents=True)
    (unit_place / "ecap").write_text(f"{Features(pasid_bits=20).ecap():x}\n")
    (device / "iommu").symlink_to("../../virtual/iommu/dmar0")
    (tmp_path / PCI / "0000:00:01.0").symlink_to("../../../devices/pci0000:00/0000:00:01.0")
    (tmp_path / CLASS / "dmar0").symlink_to("../../devices/virtual/iommu/dmar0")
    assert os.path.islink(tmp_path / CLASS / "dmar0")
    said = iommus_say(HostTree(tmp_path))
    assert values(said.iommus[0])["pasid_bits"] == 20
    assert [values(one) for one in said.endpoints] == [{"iommu": "dmar0"}]


def test_ten_thousand_functions_are_read() -> None:
    files: dict[str, str] = {f"{CLASS}/dmar0/uevent": ""}
    for number in range(10_000):
        place = f"{PCI}/{number >> 8:04x}:{number & 0xFF:02x}:00.0"
        files[f"{place}/iommu"] = Link("../../virtual/iommu/dmar0")
        files[f"{place}/iommu_group"] = Link(f"../../../kernel/iommu_groups/{number}")
        files[f"{GROUPS}/{number}/type"] = "DMA"
    said = say(files)
    assert len({one.rid for one in said.endpoints}) == 10_000
    assert all(len(one.keys) == 3 for one in said.endpoints)


# --- DSA -----------------------------------------------------------------------------------------------------------


def dsa(**files: str) -> dict[str, str]:
    return {
        f"{DSA}/dsa0": Link("../../../devices/pci0000:6a/0000:6a:01.0/dsa0"),
        **{f"{DSA}/dsa0/{name}": text for name, text in files.items()},
    }


def wq(name: str, **files: str) -> dict[str, str]:
    return {f"{DSA}/{name}/{key}": text for key, text in files.items()}


def dsa_said(files: Mapping[str, str]) -> Said:
    return dsa_says(DictTree(files))


def test_a_dsa_is_told_with_its_queues() -> None:
    files = dsa(pasid_enabled="1\n", state="enabled\n", cmd_status="0x0\n", max_work_queues="8\n", op_cap="0x1f")
    files |= wq("wq0.0", mode="shared", type="user", state="enabled", size="16", threshold="15", block_on_fault="1")
    files |= wq("wq1.0", mode="dedicated", size="4")
    files |= {f"{DSA}/iax1": Link("../../../devices/pci0000:6a/0000:6a:02.0/iax1"), f"{DSA}/iax1/state": "disabled"}
    first, second = accelerators(DictTree(files))
    assert (first.name, first.kind, first.function, first.rid) == ("dsa0", "dsa", "0000:6a:01.0", Rid(0, 0x6A08))
    assert (first.pasid_enabled, first.state, first.cmd_status, first.max_work_queues) == (True, "enabled", 0, 8)
    queue = first.queues[0]
    assert (queue.name, queue.mode, queue.type, queue.size, queue.threshold) == ("wq0.0", "shared", "user", 16, 15)
    assert (queue.block_on_fault, queue.ats_disable) == (True, None)
    assert (second.name, second.kind, [one.name for one in second.queues]) == ("iax1", "iaa", ["wq1.0"])


def test_a_queue_belongs_to_the_device_that_its_link_names() -> None:
    files = dsa(state="enabled") | {f"{DSA}/iax0/state": "", f"{DSA}/wq0.0": Link("../../x/0000:6a:01.0/dsa0/wq0.0")}
    assert [[queue.name for queue in one.queues] for one in accelerators(DictTree(files))] == [["wq0.0"], []]


def test_a_dsas_kind_and_mode_are_its_functions_keys() -> None:
    files = dsa(pasid_enabled="1") | wq("wq0.0", mode="dedicated", size="8") | wq("wq0.1", mode="shared", size="8")
    one = dsa_said(files | wq("wq0.2", mode="dedicated", size="0")).endpoints[0]
    assert (one.name, values(one)) == ("0000:6a:01.0", {"kind": "dsa", "queue": "shared"})
    assert one.keys["queue"].origin == f"{DSA}/wq0.1/mode shared"


def test_only_queues_with_a_size_tell_the_mode() -> None:
    files = dsa(state="enabled") | wq("wq0.0", mode="dedicated", size="8") | wq("wq0.1", mode="shared", size="0")
    assert values(dsa_said(files).endpoints[0]) == {"kind": "dsa", "queue": "dedicated"}


def test_a_dsa_without_pasids_is_a_finding_with_the_things_to_look_at() -> None:
    said = dsa_said(dsa(pasid_enabled="0"))
    assert values(said.endpoints[0]) == {"kind": "dsa", "pasid_enabled": False}
    finding = said.findings[0]
    assert finding.rule.id == "idxd.pasid-disabled"
    assert finding.why == (
        "dsa0 (0000:6a:01.0) has no PASIDs: pasid_enabled is 0, so that it has no shared queues, and no user has SVA"
    )
    assert all(word in finding.rule.remedy for word in ("sm_on", "no5lvl", "CONFIG_INTEL_IOMMU_SVM", "TLP prefixes"))


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        (0x26, "the device answered wq pasid enable"),
        (0x2A, "the device answered wq priv"),
        (0xEE, "the device answered a code that is not known here"),
        (
            0x8005_0000,
            "the driver refused, wq_shared(wq) && !wq_shared_supported(wq) (rule idxd.shared-without-pasids)",
        ),
        (0x800C_0000, "the driver refused, wq_shared(wq) && !wq_shared_supported(wq) (rule idxd.no-shared-queues)"),
        (0x80FF_0000, "a refusal of the driver that is not known here"),
    ],
)
def test_a_command_status_is_told_in_words(status: int, meaning: str) -> None:
    said = dsa_said(dsa(cmd_status=f"{status:#x}"))
    assert [(one.rule.id, one.why) for one in said.findings] == [
        ("idxd.cmd-status", f"dsa0 (0000:6a:01.0): the last command failed with cmd_status {status:#x}: {meaning}")
    ]


@pytest.mark.parametrize("code", list(Scmd))
def test_each_refusal_of_the_driver_names_its_rule(code: Scmd) -> None:
    assert "(rule idxd." in command_meaning(code)


def test_an_error_that_no_record_could_tell_is_a_finding() -> None:
    swerr = Swerr(valid=True, wq_idx_valid=True, wq_idx=3, error=0x1A, pasid=5, fault_addr=0x7F00_0000)
    text = " ".join(f"{word:#018x}" for word in swerr.words)
    said = dsa_said(dsa(errors=text))
    assert [one.why for one in said.findings] == [
        "dsa0 (0000:6a:01.0) holds an error that no completion record could tell: code 0x1a, PASID 5, queue 3, address "
        "0x7f000000"
    ]


@pytest.mark.parametrize("text", ["", "0x0 0x0 0x0 0x0", "0x1 0x2", "0x1 x 0x0 0x0", "0x1 " * 5])
def test_errors_that_are_none_are_nothing(text: str) -> None:
    assert dsa_said(dsa(errors=text)).findings == []


def test_user_queues_whose_faults_nobody_serves_are_findings() -> None:
    queue = wq("wq0.0", type="user", size="8", block_on_fault="0", ats_disable="1", prs_disable="1")
    kernel = wq("wq0.1", type="kernel", size="8", block_on_fault="0")
    found = dsa_said(dsa(state="") | queue | kernel | wq("wq0.2", type="user", size="0", block_on_fault="0")).findings
    never = "so that a page which is not there is never asked for: the descriptor fails"
    assert [one.why for one in found] == [
        f"wq0.0 of dsa0: ats_disable is 1, {never}",
        f"wq0.0 of dsa0: prs_disable is 1, {never}",
        "wq0.0 of dsa0: block_on_fault is 0: a descriptor that meets a page fault ends with status 3, and its user "
        "has to touch the page and go on",
    ]


def test_a_dsa_whose_function_is_unknown_is_found_but_is_no_endpoint() -> None:
    said = dsa_said({f"{DSA}/dsa0/pasid_enabled": "0"})
    assert (said.endpoints, said.findings[0].facts["function"]) == ([], "its function is unknown")


# --- uacce ---------------------------------------------------------------------------------------------------------


def zip0(**files: str) -> dict[str, str]:
    return {
        f"{UACCE}/hisi_zip-0/device": Link("../../../0000:75:00.0"),
        **{f"{UACCE}/hisi_zip-0/{name}": text for name, text in files.items()},
    }


def test_a_uacce_device_is_told() -> None:
    files = zip0(api="hisi_qm_v2\n", flags="1\n", available_instances="256\n", isolate="0\n", algorithms="zlib\ngzip\n")
    one = uacce_devices(DictTree(files))[0]
    assert (one.name, one.device, one.rid, one.api) == ("hisi_zip-0", "0000:75:00.0", Rid(0, 0x7500), "hisi_qm_v2")
    assert (one.sva, one.instances, one.isolated, one.algorithms) == (True, 256, False, "zlib gzip")
    said = uacce_says(DictTree(files))
    assert ([(one.name, one.bus, one.keys) for one in said.endpoints]) == [("0000:75:00.0", "pci", {})]
    assert said.findings == []


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"flags": "0"}, "hisi_zip-0 (0000:75:00.0) works without SVA: flags are 0x0"),
        ({"flags": "0x2"}, "hisi_zip-0 (0000:75:00.0) works without SVA: flags are 0x2"),
        (
            {"isolate": "1"},
            "hisi_zip-0 (0000:75:00.0) is isolated after too many hardware errors: its queues cannot be used",
        ),
        (
            {"available_instances": "0"},
            "hisi_zip-0 (0000:75:00.0) has no free queue: opening another fails before any PASID is asked for",
        ),
    ],
)
def test_what_is_wrong_with_a_uacce_device_is_a_finding(files: dict[str, str], why: str) -> None:
    assert [one.why for one in uacce_says(DictTree(zip0(**files))).findings] == [why]


def test_a_uacce_device_of_a_platform_device_and_one_without_a_link() -> None:
    files = {f"{UACCE}/npu-0/device": Link("../../810010000.npu"), f"{UACCE}/x-0/flags": "0"}
    said = uacce_says(DictTree(files))
    assert [(one.name, one.bus) for one in said.endpoints] == [("810010000.npu", "platform")]
    assert [one.why for one in said.findings] == ["x-0 (its device is unknown) works without SVA: flags are 0x0"]


TEXT = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(["0x1", "1", "0", "shared", "user", "1:2"])


@given(
    st.dictionaries(
        st.sampled_from(
            [
                f"{CLASS}/dmar0/intel-iommu/cap",
                f"{CLASS}/dmar0/intel-iommu/ecap",
                f"{CLASS}/dmar0/intel-iommu/address",
                f"{CLASS}/ivhd0/amd-iommu/features",
                f"{GROUPS}/1/type",
                *(f"{DSA}/dsa0/{name}" for name in ("pasid_enabled", "cmd_status", "errors", "state")),
                *(f"{DSA}/wq0.0/{name}" for name in ("mode", "type", "size", "block_on_fault")),
                *(f"{UACCE}/x/{name}" for name in ("flags", "isolate", "available_instances")),
            ]
        ),
        TEXT,
    ),
    st.dictionaries(
        st.sampled_from([f"{PCI}/0000:00:01.0/iommu", f"{PCI}/0000:00:01.0/iommu_group", f"{DSA}/dsa0"]),
        TEXT.map(Link),
    ),
)
@settings(max_examples=300, deadline=None)
def test_no_content_of_sysfs_is_too_much(files: dict[str, str], links: dict[str, str]) -> None:
    tree = DictTree(files | links)
    for said in (iommus_say(tree), dsa_says(tree), uacce_says(tree)):
        assert all(finding.why for finding in said.findings)
