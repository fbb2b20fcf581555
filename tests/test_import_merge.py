"""How what several sources say becomes one machine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pasidlab.description import MachineSpec
from pasidlab.platforms.machine import written
from pasidlab.platforms.merge import Merged, merge
from pasidlab.platforms.names import clean_names
from pasidlab.platforms.said import Endpoint, Iommu, Known, Rid, RidMap, Said
from pasidlab.rules import Finding
from pasidlab.toml_text import Commented

SMMU, UNIT = "arm-smmu-v3", "intel-vtd"


def iommu(name: str, kind: Any = SMMU, base: int | None = None, **keys: Any) -> Iommu:
    return Iommu(name, kind, f"{name} node", base, {key: Known(value, f"by {name}") for key, value in keys.items()})


def function(number: int, **keys: Any) -> Endpoint:
    rid = Rid(0, number)
    known = {key: Known(value, "config") for key, value in keys.items()}
    return Endpoint(str(rid), "pci", "config", rid, keys=known)


def said(source: str, **parts: Any) -> Said:
    return Said(source, **parts)


def rules(findings: Iterable[Finding]) -> list[str]:
    return [finding.rule.id for finding in findings]


def device(merged: Merged, name: str, *, every: bool = False) -> dict[str, Any]:
    devices: list[dict[str, Any]] = written(merged, every=every).plain["device"]
    return next(one for one in devices if one["name"] == name)


def test_a_device_is_behind_no_iommu_that_the_kernel_does_not_drive() -> None:
    firmware = said("DMAR", iommus=[iommu("dmar0", UNIT)], rid_maps=[RidMap(0, 0, 0xFFFF, "dmar0", "DMAR")])
    for off, known in ((set(), True), ({UNIT}, False)):
        functions = said("pci", endpoints=[function(8)])
        merged = merge([said("proc", undriven=off), functions, firmware])
        assert ("iommu" in merged.endpoints["0000:00:01.0"].keys) is known
        assert merged.findings == []


def test_iommus_that_are_one_pci_function_are_one_and_the_first_name_stays() -> None:
    sysfs, firmware = iommu("0000:00:01.0", "virtio-iommu"), iommu("virtio-iommu0", "virtio-iommu")
    sysfs.rid = firmware.rid = Rid(0, 8)
    assert list(merge([said("sysfs", iommus=[sysfs]), said("VIOT", iommus=[firmware])]).iommus) == ["0000:00:01.0"]


class TestIommus:
    def test_with_the_same_registers_are_one_and_the_first_name_stays(self) -> None:
        merged = merge(
            [
                said("sysfs", iommus=[iommu("dmar3", UNIT, 0xFED9_0000, pasid_bits=20)]),
                said("DMAR", iommus=[iommu("dmar0", UNIT, 0xFED9_0000, ats=True)]),
            ]
        )
        assert list(merged.iommus) == ["dmar3"]
        assert set(merged.iommus["dmar3"].keys) == {"pasid_bits", "ats"}

    def test_with_one_name_and_other_registers_are_two(self) -> None:
        merged = merge(
            [
                said("a", iommus=[iommu("dmar0", UNIT, 0x1000)]),
                said("b", iommus=[iommu("dmar0", UNIT, 0x2000)]),
            ]
        )
        assert list(merged.iommus) == ["dmar0", "dmar0#2"]

    def test_without_known_registers_are_one_by_their_name(self) -> None:
        first, second = iommu("ivhd0", "amd-vi", 0x1000), iommu("ivhd0", "amd-vi", pasid_bits=16)
        merged = merge([said("IVRS", iommus=[first]), said("sysfs", iommus=[second])])
        assert list(merged.iommus) == ["ivhd0"]
        assert merged.iommus["ivhd0"].base == 0x1000

    def test_a_key_that_two_sources_give_otherwise_is_a_finding_and_the_first_counts(self) -> None:
        merged = merge(
            [
                said("regs", iommus=[iommu("smmu", pasid_bits=2)]),
                said("log", iommus=[iommu("smmu", pasid_bits=16)]),
            ]
        )
        assert merged.iommus["smmu"].keys["pasid_bits"].value == 2
        (finding,) = merged.findings
        assert finding.why == "smmu: pasid_bits is 2 by by smmu, and 16 by by smmu; the first is taken"


class TestEndpoints:
    def test_with_one_requester_id_are_one(self) -> None:
        other = Endpoint("npu", "pci", "DT", Rid(0, 8), keys={"ats": Known(False, "DT")})
        merged = merge([said("config", endpoints=[function(8, pasid_bits=4)]), said("DT", endpoints=[other])])
        assert list(merged.endpoints) == ["0000:00:01.0"]
        assert set(merged.endpoints["0000:00:01.0"].keys) == {"pasid_bits", "ats"}

    def test_of_a_platform_are_one_by_their_node(self) -> None:
        live = Endpoint("HISI0001:00", "platform", "sysfs", node=r"\_SB_.NPU0")
        firmware = Endpoint(
            r"\_SB_.NPU0", "platform", "IORT", node=r"\_SB_.NPU0", keys={"pasid_bits": Known(2, "IORT")}
        )
        merged = merge([said("sysfs", endpoints=[live]), said("IORT", endpoints=[firmware])])
        assert list(merged.endpoints) == ["HISI0001:00"]
        assert merged.endpoints["HISI0001:00"].keys["pasid_bits"].value == 2

    def test_name_their_iommu_as_the_merge_calls_it(self) -> None:
        merged = merge(
            [
                said("sysfs", iommus=[iommu("smmu3.0x1", base=1)]),
                said("DT", iommus=[iommu("smmu@1", base=1)], endpoints=[function(8, iommu="smmu@1", pasid_bits=1)]),
            ]
        )
        assert merged.endpoints["0000:00:01.0"].keys["iommu"].value == "smmu3.0x1"

    def test_behind_an_iommu_that_nobody_describes_are_behind_none(self) -> None:
        merged = merge([said("sysfs", endpoints=[function(8, iommu="dmar7", pasid_bits=20)])])
        assert "iommu" not in merged.endpoints["0000:00:01.0"].keys
        assert rules(merged.findings) == ["import.no-such-iommu"]


class TestMapsOfRequesterIds:
    def test_the_first_that_has_the_id_counts(self) -> None:
        maps = [
            RidMap(0, 8, 8, "smmu1", "first", output=0x100),
            RidMap(0, 0, 0xFFFF, "smmu0", "rest", output=0),
        ]
        iommus = [iommu("smmu0", base=0), iommu("smmu1", base=1)]
        functions = [function(8, pasid_bits=1), function(9, pasid_bits=1)]
        merged = merge([said("IORT", iommus=iommus, rid_maps=maps), said("config", endpoints=functions)])
        assert device(merged, "0000:00:01.0")["iommu"] == "smmu1"
        assert device(merged, "0000:00:01.0")["stream_id"] == 0x100
        assert device(merged, "0000:00:01.1")["iommu"] == "smmu0"
        assert device(merged, "0000:00:01.1")["stream_id"] == 9

    def test_what_a_running_kernel_shows_comes_before_them(self) -> None:
        iommus = [iommu("dmar0", UNIT, 0), iommu("dmar1", UNIT, 1)]
        live = said("sysfs", iommus=iommus, endpoints=[function(8, iommu="dmar1", pasid_bits=20)])
        firmware = said("DMAR", rid_maps=[RidMap(0, 0, 0xFFFF, "dmar0", "include all")])
        assert device(merge([live, firmware]), "0000:00:01.0")["iommu"] == "dmar1"

    def test_the_stream_of_another_smmu_is_not_taken_for_that_of_ones_own(self) -> None:
        iommus = [iommu("smmu0", base=0), iommu("smmu1", base=1)]
        live = said("sysfs", iommus=iommus, endpoints=[function(8, iommu="smmu1", pasid_bits=2)])
        firmware = said("IORT", rid_maps=[RidMap(0, 0, 0xFFFF, "smmu0", "map", output=0)])
        assert "stream_id" not in device(merge([live, firmware]), "0000:00:01.0")

    def test_keys_of_a_root_complex_reach_its_functions(self) -> None:
        maps = [RidMap(0, 0, 0xFFFF, "smmu0", "map", output=0, keys={"ats": Known(False, "ATS attribute 0")})]
        merged = merge([said("IORT", iommus=[iommu("smmu0")], rid_maps=maps, endpoints=[function(8, pasid_bits=2)])])
        assert device(merged, "0000:00:01.0")["ats"] is False

    def test_that_lead_to_no_iommu_hide_later_ones_of_their_source_only(self) -> None:
        around = [RidMap(0, 8, 8, None, "to the ITS"), RidMap(0, 0, 0xFFFF, "smmu0", "rest", output=0)]
        iort = said("IORT", iommus=[iommu("smmu0")], rid_maps=around, endpoints=[function(8, pasid_bits=2)])
        assert "iommu" not in device(merge([iort]), "0000:00:01.0")
        viot = said("VIOT", iommus=[iommu("v0", "virtio-iommu")], rid_maps=[RidMap(0, 0, 0xFF, "v0", "range")])
        assert device(merge([iort, viot]), "0000:00:01.0")["iommu"] == "v0"

    def test_a_stream_for_all_functions_of_a_root_complex_counts_before_their_ids(self) -> None:
        maps = [RidMap(0, 0, 0xFFFF, "smmu0", "map", output=0, keys={"stream_id": Known(7, "single mapping")})]
        merged = merge([said("IORT", iommus=[iommu("smmu0")], rid_maps=maps, endpoints=[function(8, pasid_bits=2)])])
        assert device(merged, "0000:00:01.0")["stream_id"] == 7

    def test_what_firmware_does_not_allow_a_capability_does_not_bring_back(self) -> None:
        maps = [RidMap(0, 0, 0xFFFF, "smmu0", "map", output=0, keys={"ats": Known(False, "ATS attribute 0")})]
        config = said("config", endpoints=[function(8, pasid_bits=2, ats=True)])
        merged = merge([config, said("IORT", iommus=[iommu("smmu0")], rid_maps=maps)])
        assert merged.endpoints["0000:00:01.0"].keys["ats"] == Known(False, "ATS attribute 0")

    def test_a_virtual_function_behind_vtd_has_the_unit_of_its_physical_one(self) -> None:
        functions = [function(8, pasid_bits=2), function(0x100, physfn="0000:00:01.0")]
        for kind, unit in (("intel-vtd", "first"), ("arm-smmu-v3", "second")):
            iommus = [iommu("first", kind), iommu("second", kind)]
            maps = [RidMap(0, 0, 0xFF, "first", "bus 0"), RidMap(0, 0x100, 0x1FF, "second", "bus 1")]
            merged = merge([said("table", iommus=iommus, rid_maps=maps, endpoints=functions)])
            assert merged.endpoints["0000:01:00.0"].keys["iommu"].value == unit

    def test_beyond_16_bits_are_ignored(self) -> None:
        maps = [RidMap(0, -5, 1 << 20, "smmu0", "map", output=0)]
        merged = merge([said("IORT", iommus=[iommu("smmu0")], rid_maps=maps, endpoints=[function(8, pasid_bits=2)])])
        assert device(merged, "0000:00:01.0")["iommu"] == "smmu0"


class TestMachine:
    def test_devices_without_pasids_are_left_out_unless_their_group_has_some(self) -> None:
        functions = [
            function(8, pasid_bits=20, group="3"),
            function(9, group="3"),
            function(16, group="4"),
        ]
        merged = merge([said("config", endpoints=functions)])
        kept = [one["name"] for one in written(merged).plain["device"]]
        assert kept == ["0000:00:01.0", "0000:00:01.1"]
        assert written(merged).left_out == 1
        assert len(written(merged, every=True).plain["device"]) == 3

    def test_a_virtual_function_comes_after_its_physical_one(self) -> None:
        functions = [function(9, physfn="0000:00:01.0"), function(8, pasid_bits=20)]
        names = [one["name"] for one in written(merge([said("config", endpoints=functions)])).plain["device"]]
        assert names == ["0000:00:01.0", "0000:00:01.1"]

    def test_each_value_has_its_origin_as_comment(self) -> None:
        document = written(merge([said("config", endpoints=[function(8, pasid_bits=20)])])).document
        assert document["device"][0]["pasid_bits"] == Commented(20, "config")

    def test_a_width_that_nobody_says_is_assumed_and_told(self) -> None:
        made = written(merge([said("IORT", iommus=[iommu("smmu0")])]))
        assert made.document["iommu"][0]["pasid_bits"] == Commented(20, "assumed: no source says IDR1.SSIDSIZE")
        assert rules(made.findings) == ["import.width-assumed"]

    def test_iommus_without_a_model_are_mocks_with_their_drivers_operations(self) -> None:
        merged = merge([said("x", iommus=[iommu("ivhd0", "amd-vi", pasid_bits=16), iommu("v0", "virtio-iommu")])])
        amd, virtio = written(merged).plain["iommu"]
        assert amd == {"name": "ivhd0", "ops": "amd-vi", "pasid_bits": 16}
        assert virtio == {"name": "v0", "ops": "riscv"}

    def test_two_models_in_one_machine_leave_the_first(self) -> None:
        made = written(merge([said("x", iommus=[iommu("smmu0", pasid_bits=1), iommu("dmar0", UNIT, pasid_bits=20)])]))
        assert [one.get("model", "mock") for one in made.plain["iommu"]] == [SMMU, "mock"]
        assert rules(made.findings) == ["import.two-models"]

    def test_a_stream_of_two_devices_is_the_firsts(self) -> None:
        functions = [function(number, pasid_bits=1, iommu="smmu0", stream_id=5) for number in (8, 9)]
        made = written(merge([said("x", iommus=[iommu("smmu0", pasid_bits=1)], endpoints=functions)]))
        assert [one.get("stream_id") for one in made.plain["device"]] == [5, None]
        assert rules(made.findings) == ["import.stream-taken"]

    def test_streams_beyond_16_bits_widen_the_stream_table(self) -> None:
        functions = [function(8, pasid_bits=1, iommu="smmu0", stream_id=0x1_0008)]
        made = written(merge([said("x", iommus=[iommu("smmu0", pasid_bits=1)], endpoints=functions)]))
        assert made.plain["iommu"][0]["sid_bits"] == 17

    def test_a_function_behind_vtd_has_its_source_identifier(self) -> None:
        merged = merge(
            [said("x", iommus=[iommu("dmar0", UNIT)], endpoints=[function(0x6A08, iommu="dmar0", pasid_bits=8)])]
        )
        assert device(merged, "0000:6a:01.0")["source_id"] == "6a:01.0"

    def test_a_source_identifier_has_no_segment_however_long_that_is(self) -> None:
        rid = Rid(0x10000, 0xE100)
        keys = {"pasid_bits": Known(20, "config"), "iommu": Known("dmar0", "sysfs")}
        behind_vmd = Endpoint(str(rid), "pci", "config", rid, keys=keys)
        merged = merge([said("sysfs", iommus=[iommu("dmar0", UNIT, 0x1000)], endpoints=[behind_vmd])])
        assert device(merged, "10000:e1:00.0")["source_id"] == "e1:00.0"

    def test_an_smmu_without_sva_in_the_kernel_is_not_blamed_for_it(self) -> None:
        smmus = [iommu("smmu0", pasid_bits=1, sva=False)]
        for built, sva in ((True, False), (False, None)):
            source = said("log", iommus=smmus, machine={"config": Known({"ARM_SMMU_V3_SVA": built}, "config")})
            assert written(merge([source])).plain["iommu"][0].get("sva") is sva

    def test_names_become_ones_that_a_description_takes_and_stay_different(self) -> None:
        long = "x" * 80
        cleaned = clean_names(["a\x1b[0m", long, long + "y", "kernel", ""])
        assert cleaned["a\x1b[0m"] == "a?[0m"
        assert len({*cleaned.values()}) == 5
        assert all(0 < len(name) <= 64 for name in cleaned.values())
        assert cleaned["kernel"] != "kernel"

    def test_the_result_is_a_machine(self) -> None:
        functions = [function(8, pasid_bits=20, iommu="dmar0", group="1"), function(9, group="1", default_domain="dma")]
        made = written(merge([said("x", iommus=[iommu("dmar0", UNIT)], endpoints=functions)]))
        from pasidlab.decode import convert
        from pasidlab.description import check

        check(convert(made.plain, MachineSpec))
