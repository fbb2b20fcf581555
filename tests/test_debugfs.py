from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.errors import InputError
from pasidlab.hw.smmuv3 import inspect as smmu_inspect
from pasidlab.hw.smmuv3.features import Features as SmmuFeatures
from pasidlab.hw.smmuv3.features import StallModel
from pasidlab.hw.smmuv3.registers import Cr0
from pasidlab.hw.smmuv3.registers import Offset as SmmuOffset
from pasidlab.hw.smmuv3.structures import Config, Eats, S1Dss, S1Fmt, Ste
from pasidlab.hw.vtd.features import Features
from pasidlab.hw.vtd.registers import Gsts, Rtaddr, Ttm
from pasidlab.hw.vtd.structures import (
    AddressWidth,
    ContextEntry,
    Flpm,
    PasidEntry,
    Pgtt,
    RootEntry,
    ScalableContextEntry,
    ScalableRootEntry,
)
from pasidlab.platforms.debugfs import (
    debugfs_says,
    read_smmu_dump,
    read_vtd_registers,
    read_vtd_tables,
    smmu_dump_says,
    vtd_registers_say,
    vtd_tables_say,
)
from pasidlab.platforms.said import Iommu
from pasidlab.rules import Finding
from pasidlab.runner import machine_at
from pasidlab.scenario import Scenario
from tests.conftest import ROOT
from tests.debugfs_text import (
    capabilities,
    registers,
    row,
    smmu_registers,
    ste,
    tables,
    unit_registers,
    unit_tables,
)
from tests.dict_tree import DictTree

DATA = Path(__file__).parent / "data" / "platforms" / "debugfs"
INTEL, ARM = "sys/kernel/debug/iommu/intel", "sys/kernel/debug/iommu/arm_smmu_v3"
SOURCE = 0x6A08
FIRST = PasidEntry(p=True, aw=AddressWidth.BITS_48, pgtt=Pgtt.FIRST_STAGE, did=1, fsptptr=0x5000)
SECOND = PasidEntry(p=True, aw=AddressWidth.BITS_48, pgtt=Pgtt.SECOND_STAGE, did=2, ssptptr=0x6000)
ROOT_WORD = ScalableRootEntry(lp=True, lctp=0x2000)
CONTEXT = ScalableContextEntry(p=True, dte=True, paside=True, pre=True, pasiddirptr=0x3000, pdts=7)


def values(one: Iommu) -> dict[str, object]:
    return {key: known.value for key, known in one.keys.items()}


def told(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(one.rule.id, one.why) for one in findings]


def judged(text: str, features: Features | None = None) -> list[str]:
    known = None
    if features is not None:
        pair = {"CAP": (8, int(features.cap())), "ECAP": (16, int(features.ecap()))}
        known = read_vtd_registers(registers("dmar0", 0xFED90000, pair))
    return [one.why for one in vtd_tables_say(read_vtd_tables(text, "dump"), known).findings]


def one_row(
    root: ScalableRootEntry = ROOT_WORD,
    context: ScalableContextEntry = CONTEXT,
    entry: PasidEntry = FIRST,
    source: int = SOURCE,
    pasid: int = 1,
) -> str:
    return tables("dmar0", [row(source, root, context, pasid, entry)])


# --- VT-d: reading -------------------------------------------------------------------------------------------------


@given(
    source=st.integers(0, 0xFFFF),
    root=st.integers(0, (1 << 128) - 1),
    context=st.integers(0, (1 << 128) - 1),
    pasid=st.integers(0, (1 << 20) - 1),
    entry=st.integers(0, (1 << 192) - 1),
)
@settings(max_examples=100, deadline=None)
def test_a_line_of_scalable_mode_is_read_back_bit_by_bit(
    source: int, root: int, context: int, pasid: int, entry: int
) -> None:
    text = tables("dmar0", [row(source, ScalableRootEntry(root), ScalableContextEntry(context), pasid, entry)])
    read = read_vtd_tables(text).units[0].rows[0]
    assert (read.source, int(read.root), int(read.context), read.pasid) == (source, root, context, pasid)
    assert read.entry == entry
    assert (type(read.root), type(read.context)) == (ScalableRootEntry, ScalableContextEntry)


@given(st.integers(0, (1 << 128) - 1), st.integers(0, (1 << 128) - 1))
@settings(max_examples=50, deadline=None)
def test_a_line_of_legacy_mode_has_no_pasid(root: int, context: int) -> None:
    read = read_vtd_tables(tables("dmar0", [row(0x10, RootEntry(root), ContextEntry(context))])).units[0].rows[0]
    assert (int(read.root), int(read.context), read.pasid, read.entry) == (root, context, None, None)
    assert (type(read.root), type(read.context)) == (RootEntry, ContextEntry)


def test_units_are_in_the_order_of_the_text() -> None:
    text = "DMA Remapping is not enabled on dmar2\n" + one_row() + tables("dmar1", [], root=0xABC000)
    read = read_vtd_tables(text)
    assert [(unit.name, unit.root_table, len(unit.rows)) for unit in read.units] == [
        ("dmar2", None, 0),
        ("dmar0", 0x1000, 1),
        ("dmar1", 0xABC000, 0),
    ]
    assert read.units[1].rows[0].name == "6a:01.0"
    assert read.remarks == []


def test_a_text_that_was_sent_by_mail_is_put_together_again() -> None:
    whole = one_row()
    broken = "\n".join(f"> > {line}" for line in whole.replace("\t0x", "\n0x").split("\n"))
    assert "> > 0x" in broken
    assert read_vtd_tables(broken).units[0].rows[0].entry == FIRST


def test_lines_of_no_form_are_a_remark_with_their_numbers() -> None:
    text = "hello\n" + one_row() + "6a:01.0 cut\n\n" + "x" * 400
    assert read_vtd_tables(text, "dump").remarks == ["dump: not read, since of no known form: line 1, 6, 8"]


def test_of_many_strange_lines_only_the_first_are_named() -> None:
    text = one_row() + "strange\n" * 30
    shown = ", ".join(map(str, range(5, 25)))
    assert read_vtd_tables(text, "dump").remarks == [
        f"dump: not read, since of no known form: line {shown} and 10 more"
    ]


@pytest.mark.parametrize("text", ["", "hello\n", row(1, ROOT_WORD, CONTEXT, 1, FIRST)])
def test_a_text_without_a_unit_is_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        read_vtd_tables(text, "dump")
    assert str(caught.value) == "dump: no line names a unit, as 'IOMMU dmar0: Root Table Address: 0x…' does"


def test_registers_are_read_with_their_words() -> None:
    features = Features(pasid_bits=20)
    values = {
        "CAP": (0x8, int(features.cap())),
        "ECAP": (0x10, int(features.ecap())),
        "GSTS": (0x1C, Gsts(tes=True)),
        "RTADDR": (0x20, Rtaddr(rta=0x1000, ttm=Ttm.SCALABLE)),
        "MTRR_FIX64K_00000": (0x120, 0),
    }
    read = read_vtd_registers(registers("dmar0", 0xFED90000, values) + registers("dmar1", 0xFED91000, {}), "regset")
    unit = read.unit("dmar0")
    assert unit is not None
    assert (unit.base, unit.cap, unit.ecap) == (0xFED90000, features.cap(), features.ecap())
    assert unit.gsts is not None
    assert unit.rtaddr is not None
    assert (unit.gsts.tes, unit.rtaddr.ttm) == (True, Ttm.SCALABLE)
    other = read.unit("dmar1")
    assert other is not None
    assert (other.cap, other.ecap, other.gsts, other.rtaddr, read.unit("dmar2")) == (None, None, None, None, None)
    assert read.remarks == []


def test_a_text_without_registers_is_refused() -> None:
    with pytest.raises(InputError, match="regset: no line names a unit, as 'IOMMU: dmar0 Register Base Address: "):
        read_vtd_registers("IOMMU dmar0", "regset")


# --- VT-d: what it says --------------------------------------------------------------------------------------------


def test_registers_say_what_sysfs_would_and_where_the_unit_is() -> None:
    features = Features(pasid_bits=15, page_requests=False)
    pair = {"CAP": (8, int(features.cap())), "ECAP": (16, int(features.ecap()))}
    said = vtd_registers_say(read_vtd_registers(registers("dmar0", 0xFED90000, pair), "regset"))
    one = said.iommus[0]
    assert (one.name, one.kind, one.base) == ("dmar0", "intel-vtd", 0xFED90000)
    assert (values(one)["pasid_bits"], values(one)["pri"], values(one)["sva"]) == (15, False, True)
    assert one.keys["pasid_bits"].origin == (f"regset, line 1, ECAP {int(features.ecap()):#x}, bits 39:35 (PSS)")


def test_a_unit_in_legacy_mode_has_no_scalable_mode_whatever_it_could() -> None:
    features = Features()
    pair = {"GSTS": (0x1C, Gsts(tes=True)), "RTADDR": (0x20, Rtaddr(rta=0x1000)), "ECAP": (16, int(features.ecap()))}
    said = vtd_registers_say(read_vtd_registers(registers("dmar0", 0xFED90000, pair), "regset"))
    assert said.iommus[0].keys["scalable"] == (False, "regset, line 1, RTADDR 0x1000, bits 11:10 (TTM)")
    assert told(said.findings) == [
        (
            "vtd-debugfs.legacy-mode",
            "regset, line 1: dmar0 translates in legacy mode, in which every request with a PASID is blocked",
        )
    ]


def test_a_unit_that_does_not_translate_is_a_finding() -> None:
    said = vtd_registers_say(read_vtd_registers(registers("dmar0", 1, {"GSTS": (0x1C, 0)}), "regset"))
    sentence = "does not translate: no device behind it has PASIDs"
    assert told(said.findings) == [("vtd-debugfs.translation-off", f"regset, line 1: dmar0 {sentence}")]
    said = vtd_tables_say(read_vtd_tables("\nDMA Remapping is not enabled on dmar1\n", "dump"))
    assert told(said.findings) == [("vtd-debugfs.translation-off", f"dump, line 2: dmar1 {sentence}")]


def test_tables_of_legacy_mode_are_a_finding_and_say_so() -> None:
    legacy = ContextEntry(p=True, aw=AddressWidth.BITS_48, did=1, ssptptr=0x4000)
    text = tables("dmar0", [row(0x10, RootEntry(p=True, ctp=0x2000), legacy)])
    said = vtd_tables_say(read_vtd_tables(text, "dump"))
    assert said.iommus[0].keys["scalable"] == (False, "dump, line 1: entries of legacy mode")
    assert [one.rule.id for one in said.findings] == ["vtd-debugfs.legacy-mode"]


def test_pasids_that_have_an_entry_are_counted() -> None:
    rows = [row(source, ROOT_WORD, CONTEXT, pasid, FIRST) for source in (0x6A08, 0x6A10) for pasid in (0, 1, 7)]
    said = vtd_tables_say(read_vtd_tables(tables("dmar0", rows), "dump"))
    assert said.remarks == ["dmar0: PASIDs with an entry: 2, the largest 7; devices with such: 2"]


@pytest.mark.parametrize("scenario", ["vtd_dsa_to_iaa", "vtd_teardown"])
def test_what_the_modelled_kernel_wrote_is_accepted_and_counted(scenario: str) -> None:
    machine = machine_at(Scenario.load(ROOT / f"scenarios/{scenario}.toml"), "mainline")
    for name, iommu in machine.iommus.items():
        unit = machine.parts.vtds.instances[iommu].hw
        known = read_vtd_registers(unit_registers(name, unit))
        read = read_vtd_tables(unit_tables(name, unit))
        assert read.units[0].rows
        assert vtd_tables_say(read, known).findings == []
        assert vtd_registers_say(known).findings == []


# --- VT-d: entries that a unit refuses -------------------------------------------------------------------------------


def test_good_entries_are_not_told_of() -> None:
    assert judged(one_row()) == []
    assert judged(one_row(entry=SECOND)) == []
    assert judged(one_row(), Features(host_bits=46, snoop_control=False)) == []


def test_a_root_entry_with_reserved_bits_is_refused_with_its_fault_reason() -> None:
    bad = ScalableRootEntry(ROOT_WORD | 0x40)
    assert judged(one_row(root=bad)) == [
        "dump, line 3: the root entry of device 0x6a08 has reserved bits set (6a:01.0, lower half of the root entry "
        "0x2041, reserved bits 0x40): dmar0 answers with fault reason 0x3a"
    ]


def test_the_half_of_the_root_entry_that_a_device_needs_counts() -> None:
    bad = ScalableRootEntry(ROOT_WORD | 0x40 << 64 | 1 << 64)
    assert judged(one_row(root=bad)) == []
    upper = judged(one_row(root=bad, source=0x6A80))
    assert [why.split(" (")[1].split(", ")[1] for why in upper] == ["upper half of the root entry 0x41"]


def test_a_root_entry_is_told_of_once_and_a_context_entry_once_a_device() -> None:
    root, context = ScalableRootEntry(ROOT_WORD | 2), ScalableContextEntry(CONTEXT | 1 << 100)
    rows = [row(source, root, context, pasid, FIRST) for source in (0x6A08, 0x6A10) for pasid in (1, 2)]
    found = judged(tables("dmar0", rows))
    assert [(why.split(":")[0], "root" in why) for why in found] == [
        ("dump, line 3", True),
        ("dump, line 3", False),
        ("dump, line 5", False),
    ]


def test_bits_of_a_context_entry_that_newer_units_use_are_not_held_against_it() -> None:
    assert judged(one_row(context=ScalableContextEntry(CONTEXT | 0x60))) == []


@pytest.mark.parametrize(
    ("entry", "features", "reason"),
    [
        (PasidEntry(FIRST | 1 << 10), None, 0x5A),
        (FIRST.replace(pgtt=Pgtt.RESERVED_5), None, 0x5B),
        (FIRST.replace(fspm=Flpm.RESERVED_2), None, 0x5B),
        (FIRST.replace(fspm=Flpm.FIVE_LEVEL), Features(five_level=False), 0x5B),
        (FIRST, Features(first_stage=False), 0x5B),
        (SECOND.replace(aw=AddressWidth.BITS_57), Features(second_levels=frozenset({4})), 0x5B),
        (FIRST.replace(sre=True), Features(supervisor_requests=False), 0x5A),
        (FIRST.replace(pwsnp=True), Features(coherent=False), 0x5A),
        (FIRST.replace(emte=True), Features(), 0x5A),
    ],
)
def test_a_pasid_entry_that_a_unit_refuses_is_found(entry: PasidEntry, features: Features | None, reason: int) -> None:
    found = judged(one_row(entry=entry), features)
    assert len(found) == 1
    assert found[0].startswith("dump, line 3: the entry of PASID 1 of device 0x6a08 has ")
    assert found[0].endswith(f": dmar0 answers with fault reason {reason:#x}")


def test_what_depends_on_the_unit_is_not_found_without_its_registers() -> None:
    for entry in (FIRST.replace(fspm=Flpm.FIVE_LEVEL), FIRST.replace(sre=True), FIRST.replace(emte=True, pat=7)):
        assert judged(one_row(entry=entry)) == []


def test_a_pasid_beyond_its_directory_or_its_unit_is_found() -> None:
    small = CONTEXT.replace(pdts=0)
    assert judged(one_row(context=small, pasid=(1 << 13) - 1)) == []
    found = judged(one_row(context=small, pasid=1 << 13))
    assert [why.split(" (")[0] for why in found] == [
        "dump, line 3: PASID 8192 of device 0x6a08 is beyond the PASID directory"
    ]
    assert len(judged(one_row(pasid=0x100), Features(pasid_bits=8))) == 1


def test_a_context_entry_that_enables_what_a_unit_lacks_is_found() -> None:
    found = judged(one_row(), Features(page_requests=False))
    assert [why.split(" (")[0] for why in found] == [
        "dump, line 3: the context entry of device 0x6a08 enables what the unit does not have"
    ]


def test_so_many_entries_are_told_of() -> None:
    rows = [row(SOURCE, ROOT_WORD, CONTEXT, pasid, PasidEntry(FIRST | 1 << 10)) for pasid in range(1, 251)]
    said = vtd_tables_say(read_vtd_tables(tables("dmar0", rows), "dump"))
    assert len(said.findings) == 200
    assert said.remarks[-1] == "dump: dmar0 would refuse 50 more entries"


# --- SMMUv3 --------------------------------------------------------------------------------------------------------

STAGE_1 = Ste(v=True, config=Config.STAGE_1, s1contextptr=0x8_2345_0000, s1cdmax=2, s1dss=S1Dss.SSID0)


@given(sid=st.integers(0, (1 << 32) - 1), raw=st.integers(0, (1 << 512) - 1))
@settings(max_examples=50, deadline=None)
def test_an_entry_is_read_back_bit_by_bit(sid: int, raw: int) -> None:
    streams = read_smmu_dump(ste(sid, Ste(raw))).streams
    assert [(one.sid, int(one.ste), one.words) for one in streams] == [(sid, raw, 8)]


@pytest.mark.parametrize("between", [" ", ":", ", "])
@pytest.mark.parametrize("sid", ["0x10", "16"])
def test_a_line_with_all_words_is_an_entry_too(between: str, sid: str) -> None:
    words = between.join(f"{word:#x}" for word in STAGE_1.words)
    streams = read_smmu_dump(f"SID {sid}: {words}", "ste").streams
    assert [(one.sid, one.ste, one.place) for one in streams] == [(16, STAGE_1, "ste, line 1")]


def test_several_files_behind_one_another_are_read() -> None:
    text = capabilities() + smmu_registers(CR0=1, CR1=2, EVTQ_PROD=3) + ste(1, STAGE_1) + ste(2, STAGE_1)
    dump = read_smmu_dump(text, "all")
    assert dump.capabilities["PRI Support"] is False
    assert dump.capabilities["Stream Table Size"] == 65536
    assert (dump.registers["CR0"], type(dump.registers["CR0"])) == (1, Cr0)
    assert dump.registers["EVENTQ_PROD"] == 3
    assert [one.sid for one in dump.streams] == [1, 2]
    assert dump.remarks == []


def test_registers_with_bits_in_words_and_of_no_known_name_are_read() -> None:
    dump = read_smmu_dump("CR0: 0x0000000d [Enabled EventQ CmdQ ]\nVENDOR_REG: 0x7\nCR1: 0x123456789\n", "r")
    assert dump.registers == {"CR0": 13, "VENDOR_REG": 7, "CR1": 0x1_2345_6789}


def test_what_the_kernel_says_in_place_of_an_entry_and_strange_lines_are_remarks() -> None:
    text = "Invalid Stream ID: 70000 (max 65535)\nSTE not available for SID 5\nhello\nSTE[0]: 0x1\n"
    assert read_smmu_dump(text, "ste").remarks == [
        "ste, line 1: Invalid Stream ID: 70000 (max 65535)",
        "ste, line 2: STE not available for SID 5",
        "ste: not read, since of no known form: line 3, 4",
    ]


@pytest.mark.parametrize("text", ["", "hello", "STE[0]: 0x1"])
def test_a_text_of_no_smmu_is_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        read_smmu_dump(text, "ste")
    assert str(caught.value) == "ste: no line is one of SMMUv3's debugfs, as 'STE[0]: 0x…' or 'CR0: 0x…' are"


def test_id_registers_are_an_smmus_keys() -> None:
    features = SmmuFeatures(ssid_bits=6, sid_bits=20, two_level_cds=False, httu=2, ats=True, granules=frozenset({16}))
    text = smmu_registers(IDR0=features.idr0(), IDR1=features.idr1(), IDR5=features.idr5())
    said = smmu_dump_says(read_smmu_dump(text, "regs"), "smmu3.0x000000002b400000")
    one = said.iommus[0]
    assert (one.name, one.kind, one.base) == ("smmu3.0x000000002b400000", "arm-smmu-v3", 0x2B400000)
    assert values(one) == {
        "two_level": False,
        "stall": True,
        "httu": 2,
        "ats": True,
        "pri": False,
        "ssid_bits": 6,
        "sid_bits": 20,
        "granule": 65536,
    }
    assert one.keys["ssid_bits"].origin == f"regs, line 3, IDR1 {int(features.idr1()):#x}, bits 10:6 (SSIDSIZE)"


@pytest.mark.parametrize(
    "features", [SmmuFeatures(stage1=False), SmmuFeatures(coherent=False)], ids=["no stage 1", "not coherent"]
)
def test_an_smmu_that_cannot_share_page_tables_has_no_sva(features: SmmuFeatures) -> None:
    dump = read_smmu_dump(smmu_registers(IDR0=features.idr0()))
    assert values(smmu_dump_says(dump, "smmu3.0x1").iommus[0])["sva"] is False


def test_an_smmu_that_only_terminates_cannot_stall() -> None:
    dump = read_smmu_dump(smmu_registers(IDR0=SmmuFeatures(stall_model=StallModel.TERMINATE_ONLY).idr0()))
    assert values(smmu_dump_says(dump, "smmu3.0x1").iommus[0])["stall"] is False


def test_capabilities_are_an_smmus_keys() -> None:
    said = smmu_dump_says(read_smmu_dump(capabilities(), "caps"), "smmu3.0x000000002b400000")
    assert values(said.iommus[0]) == {"ats": True, "pri": False, "sid_bits": 16}
    assert said.iommus[0].keys["sid_bits"].origin == "caps, line 7, Stream Table Size"
    without = smmu_dump_says(read_smmu_dump(capabilities(Coherent_Walk="No", ATS_Support="No")), "smmu3.0x1")
    assert values(without.iommus[0]) == {"ats": False, "pri": False, "sid_bits": 16, "sva": False}


def test_without_a_name_no_iommu_is_said() -> None:
    assert smmu_dump_says(read_smmu_dump(capabilities())).iommus == []


def test_an_smmu_that_is_off_is_a_finding() -> None:
    said = smmu_dump_says(read_smmu_dump(smmu_registers(CR1=0, CR0=0xC), "regs"))
    assert told(said.findings) == [
        ("smmu-debugfs.off", "regs, line 3: the SMMU is off (CR0 0xc): no device behind it has PASIDs")
    ]
    assert smmu_dump_says(read_smmu_dump(smmu_registers(CR0=0xD), "regs")).findings == []


@pytest.mark.parametrize(
    ("entry", "rule", "why"),
    [
        (
            Ste(v=True, config=Config.BYPASS),
            "smmu-debugfs.bypass",
            "ste, line 1: stream 0x10 bypasses the SMMU: it has no CD table, and no PASID goes anywhere",
        ),
        (
            STAGE_1.replace(s1cdmax=0),
            "smmu-debugfs.no-substreams",
            "ste, line 1: stream 0x10 has a single CD (S1CDMax 0): requests with a PASID are refused",
        ),
        (
            STAGE_1.replace(s1cdmax=21),
            "smmu-debugfs.refused",
            "ste, line 1: the STE of stream 0x10 has more substreams than the SMMU can tell apart: the SMMU answers "
            "C_BAD_STE (rule smmu.ste-s1cdmax)",
        ),
        (
            STAGE_1.replace(s1contextptr=1 << 53),
            "smmu-debugfs.refused",
            "ste, line 1: the STE of stream 0x10 has its CDs outside of the address size: the SMMU answers C_BAD_STE "
            "(rule smmu.ste-s1contextptr)",
        ),
    ],
)
def test_what_an_entry_means_for_pasids_is_a_finding(entry: Ste, rule: str, why: str) -> None:
    assert told(smmu_dump_says(read_smmu_dump(ste(16, entry), "ste")).findings) == [(rule, why)]


def test_an_entry_is_held_against_the_id_registers_that_are_shown() -> None:
    features = SmmuFeatures(ssid_bits=1, two_level_cds=False)
    for entry, rule in ((STAGE_1, "s1cdmax"), (STAGE_1.replace(s1cdmax=1, s1fmt=S1Fmt.LEAF_64K), "s1fmt")):
        alone = smmu_dump_says(read_smmu_dump(ste(16, entry))).findings
        text = smmu_registers(IDR0=features.idr0(), IDR1=features.idr1()) + ste(16, entry)
        found = smmu_dump_says(read_smmu_dump(text)).findings
        assert (alone, [one.facts["rule"] for one in found]) == ([], [f"smmu.ste-{rule}"])


def test_entries_that_are_not_valid_or_split_ats_where_it_may_be_are_not_told_of() -> None:
    text = ste(1, Ste(v=False)) + ste(2, STAGE_1.replace(eats=Eats.SPLIT_STAGE)) + ste(3, Ste(v=True))
    assert smmu_dump_says(read_smmu_dump(text)).findings == []


def test_an_entry_of_which_words_are_missing_is_not_judged() -> None:
    said = smmu_dump_says(read_smmu_dump("SID 0x10: 0xf800000000000009", "ste"))
    assert said.findings == []
    assert said.remarks[0] == "ste: 1 of 1 entries not judged, since not all eight words are shown"


def test_streams_with_substreams_are_counted() -> None:
    text = ste(1, STAGE_1) + ste(2, STAGE_1.replace(s1cdmax=5)) + ste(3, STAGE_1.replace(s1cdmax=0))
    said = smmu_dump_says(read_smmu_dump(text, "ste"))
    assert said.remarks == ["ste: 2 streams have substreams, of 2 to 5 bits (S1CDMax)"]


def test_what_the_modelled_kernel_wrote_into_the_stream_table_is_accepted() -> None:
    machine = machine_at(Scenario.load(ROOT / "scenarios/narrow_smmu.toml"), "v2")
    hardware = machine.parts.smmus.instances[machine.iommus["smmu0"]].hw
    offsets = (SmmuOffset.IDR0, SmmuOffset.IDR1, SmmuOffset.IDR3, SmmuOffset.IDR5)
    shown = {offset.name: smmu_inspect.register(hardware, offset) for offset in offsets}
    entries = [(one.sid, one.ste) for one in smmu_inspect.stream_entries(hardware) if one.ste is not None and one.ste.v]
    dump = read_smmu_dump(smmu_registers(**shown) + "".join(ste(*one) for one in entries))
    found = smmu_dump_says(dump, "smmu3.0x1")
    assert [one.rule.id for one in found.findings if one.rule.id == "smmu-debugfs.refused"] == []
    assert any("have substreams" in remark for remark in found.remarks)


# --- a host --------------------------------------------------------------------------------------------------------


def test_a_hosts_debugfs_is_read() -> None:
    pair = {"CAP": (8, int(Features().cap())), "ECAP": (16, int(Features(execute_requests=False).ecap()))}
    files = {
        f"{INTEL}/dmar_translation_struct": one_row(entry=FIRST.replace(ere=True)),
        f"{INTEL}/iommu_regset": registers("dmar0", 0xFED90000, pair),
        f"{ARM}/smmu3.0x000000002b400000/capabilities": capabilities(),
        f"{ARM}/smmu3.0x000000002b400000/registers": smmu_registers(CR0=1),
        f"{ARM}/smmu3.0x000000002b400000/stream_table/16/ste": ste(16, STAGE_1.replace(s1cdmax=0)),
        f"{ARM}/smmu3.0x000000002b400000/stream_table/32/ste": ste(32, STAGE_1),
    }
    regset, translation, smmu = debugfs_says(DictTree(files))
    assert (regset.source, translation.source, smmu.source) == (
        f"{INTEL}/iommu_regset",
        f"{INTEL}/dmar_translation_struct",
        f"{ARM}/smmu3.0x000000002b400000",
    )
    assert [one.rule.id for one in translation.findings] == ["vtd-debugfs.refused"]
    assert (smmu.iommus[0].name, smmu.iommus[0].base) == ("smmu3.0x000000002b400000", 0x2B400000)
    assert [one.facts["place"] for one in smmu.findings] == [
        f"{ARM}/smmu3.0x000000002b400000/stream_table/16/ste, line 1"
    ]


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        ("smmu0x2b400000", "smmu3.0x000000002b400000"),
        ("smmu3.0x000000002b400000", "smmu3.0x000000002b400000"),
        ("arm-smmu-v3.0.auto", "arm-smmu-v3.0.auto"),
        ("smmu0xyz", "smmu0xyz"),
    ],
)
def test_an_smmu_is_called_as_linux_calls_it(directory: str, name: str) -> None:
    said = debugfs_says(DictTree({f"{ARM}/{directory}/capabilities": capabilities()}))
    assert [one.iommus[0].name for one in said] == [name]


def test_broken_files_of_a_host_are_remarks() -> None:
    said = debugfs_says(DictTree({f"{INTEL}/iommu_regset": "no", f"{ARM}/smmu3.0x1/registers": "no"}))
    assert [one.remarks for one in said] == [
        [f"{INTEL}/iommu_regset: no line names a unit, as 'IOMMU: dmar0 Register Base Address: …' does"],
        [f"{ARM}/smmu3.0x1/registers: no line is one of SMMUv3's debugfs, as 'STE[0]: 0x…' or 'CR0: 0x…' are"],
    ]


def test_a_host_without_debugfs_says_nothing() -> None:
    assert debugfs_says(DictTree({})) == []


@pytest.mark.parametrize("path", sorted(DATA.glob("*.txt")), ids=lambda path: path.name)
def test_the_files_of_the_data_are_read_without_remarks_about_lines(path: Path) -> None:
    said = debugfs_says(DictTree({f"{INTEL}/{path.stem.split('.')[-1]}": path.read_text()}))
    if path.name.startswith("smmu"):
        said = [smmu_dump_says(read_smmu_dump(path.read_text(), path.name))]
    assert said
    assert not any("no known form" in remark for one in said for remark in one.remarks)


# --- whatever comes ------------------------------------------------------------------------------------------------

SAMPLES = [
    one_row() + registers("dmar0", 1, {"ECAP": (16, int(Features().ecap()))}),
    capabilities() + smmu_registers(IDR0=0x1000, IDR1=0x40) + ste(16, STAGE_1),
]
PARTS = st.sampled_from(["0x", "IOMMU", ":", "\n", "\t", "-1", "99999999999999999999", "STE[0]: 0x1", "f" * 40, "\0"])


@given(
    sample=st.sampled_from(SAMPLES),
    changes=st.lists(st.tuples(st.integers(0, 600), st.integers(0, 12), PARTS | st.text(max_size=4)), max_size=6),
)
@settings(max_examples=300, deadline=None)
def test_no_text_is_too_much(sample: str, changes: list[tuple[int, int, str]]) -> None:
    text = sample
    for at, count, new in changes:
        text = text[:at] + new + text[at + count :]
    seen = 0
    for reader, says in (
        (read_vtd_tables, vtd_tables_say),
        (read_vtd_registers, vtd_registers_say),
        (read_smmu_dump, smmu_dump_says),
    ):
        try:
            said = says(reader(text, "it"))  # type: ignore[operator]
        except InputError:
            seen += 1
            continue
        assert all(finding.why.startswith("it, line ") for finding in said.findings)
    assert seen <= 3


@pytest.mark.parametrize("reader", [read_vtd_tables, read_vtd_registers, read_smmu_dump])
def test_a_line_without_end_does_not_take_long(reader: object) -> None:
    assert callable(reader)
    for line in ("0x" * 200_000, "IOMMU " * 100_000, " " * 400_000, "A" * 400_000 + ":", "SID 1" + " 0x1" * 100_000):
        with pytest.raises(InputError):
            reader(line)
