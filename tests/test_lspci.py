"""What lspci prints: dumps, text, and both; held against the installed lspci's own reading of the same bytes."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.errors import InputError
from pasidlab.platforms.pci.config import ConfigSpace
from pasidlab.platforms.pci.function import Function
from pasidlab.platforms.pci.lspci import read_lspci
from pasidlab.platforms.pci.says import functions_say
from pasidlab.platforms.pci.words import (
    AtsCapability,
    ExpressCapability,
    PasidCapability,
    PortType,
    PriCapability,
    SriovCapability,
)
from pasidlab.words import Word
from tests.pci_machine import MADE, config, dump, endpoint, pasid

DATA = Path(__file__).parent / "data/platforms/pci"
MACHINES = ("made", "q35", "virt")
NOT_PRINTED = {"next_capability", "page_aligned_request", "prg_response_pasid_required", "vf_device_id"}
"""Fields that lspci 3.9.0 does not print."""
DSA = """\
6a:01.0 System peripheral [0880]: Intel Corporation Device [8086:0b25]
\tSubsystem: Intel Corporation Device [8086:0000]
\tControl: I/O- Mem+ BusMaster+ SpecCycle- MemWINV- VGASnoop- ParErr+ Stepping- SERR+ FastB2B- DisINTx+
\tStatus: Cap+ 66MHz- UDF- FastB2B- ParErr- DEVSEL=fast >TAbort- <TAbort- <MAbort- >SERR- <PERR- INTx-
\tIOMMU group: 12
\tCapabilities: [40] Express (v2) Root Complex Integrated Endpoint, IntMsgNum 0
\t\tDevCap2: Completion Timeout: Not Supported, TimeoutDis+ NROPrPrP- LTR+
\t\t\t 10BitTagComp+ 10BitTagReq+ OBFF Not Supported, ExtFmt+ EETLPPrefix+, MaxEETLPPrefixes 1
\t\tDevCtl2: Completion Timeout: 50us to 50ms, TimeoutDis-
\t\t\t 10BitTagReq- OBFF Disabled, EETLPPrefixBlk-
\tCapabilities: [200 v1] Address Translation Service (ATS)
\t\tATSCap:\tInvalidate Queue Depth: 1f
\t\tATSCtl:\tEnable+, Smallest Translation Unit: 0a
\tCapabilities: [220 v1] Process Address Space ID (PASID)
\t\tPASIDCap: Exec- Priv+, Max PASID Width: 14
\t\tPASIDCtl: Enable+ Exec- Priv+
\tCapabilities: [240 v1] Page Request Interface (PRI)
\t\tPRICtl: Enable+ Reset-
\t\tPRISta: RF- UPRGI- Stopped- PASID+
\t\tPage Request Capacity: 00000200, Page Request Allocation: 00000020
\tKernel driver in use: idxd
\tKernel modules: idxd
"""


def text_of(name: str) -> str:
    """Return what a data file holds."""
    return gzip.decompress((DATA / f"{name}.txt.gz").read_bytes()).decode()


def fields(word: Word) -> dict[str, int]:
    """Return the fields of a word that lspci prints."""
    return {shown.field.name: shown.value for shown in word.values() if shown.field.name not in NOT_PRINTED}


def one(text: str) -> Function:
    """Return the only function of a text."""
    (function,) = read_lspci(text)
    return function


def only(space: ConfigSpace) -> tuple[str, str]:
    """Return the rule and the sentence of a space's only finding."""
    (finding,) = space.findings
    return finding.rule.id, finding.why


@pytest.mark.parametrize("machine", MACHINES)
def test_bytes_and_lspcis_reading_of_them_say_the_same(machine: str) -> None:
    from_bytes = read_lspci(text_of(f"{machine}-xxxx"))
    from_text = read_lspci(text_of(f"{machine}-vv"))
    assert [one.rid for one in from_bytes] == [one.rid for one in from_text]
    for raw, printed in zip(from_bytes, from_text, strict=True):
        assert raw.config.found.keys() == printed.config.found.keys()
        assert raw.config.extended_known
        assert printed.config.extended_known
        for kind in raw.config.found:
            word = raw.config.get(kind)
            assert word is not None
            theirs = printed.config.get(kind)
            assert theirs is not None
            assert fields(theirs) == fields(word), (raw.rid, kind)
        ours, other = raw.config.header, printed.config.header
        assert (ours.vendor_id, ours.device_id, ours.buses) == (other.vendor_id, other.device_id, other.buses)
        assert ours.revision_id == (other.revision_id or 0)


@pytest.mark.parametrize("machine", MACHINES)
def test_what_each_says_of_a_machine_is_the_same_but_for_what_is_not_printed(machine: str) -> None:
    said = [functions_say(read_lspci(text_of(f"{machine}-{form}"), form), form) for form in ("xxxx", "vv")]
    keys = [
        {
            one.name: {key: known.value for key, known in one.keys.items() if key != "prg_pasid"} | {"up": one.parent}
            for one in each.endpoints
        }
        for each in said
    ]
    assert keys[0] == keys[1]


def test_the_stored_dump_is_of_the_functions_made_here() -> None:
    assert text_of("made-xxxx") == dump(MADE)


def test_bytes_survive_being_printed() -> None:
    for function, data in zip(read_lspci(dump(MADE)), MADE.values(), strict=True):
        assert function.config.size == 4096
        assert function.config.header.class_code == int.from_bytes(data[9:12], "little")


def test_text_of_a_dsa_is_read_whole() -> None:
    function = one(DSA)
    config = function.config
    assert (str(function.rid), function.driver, function.group, function.kind) == ("0000:6a:01.0", "idxd", "12", "dsa")
    assert function.port_type is PortType.INTEGRATED_ENDPOINT
    assert config.get(PasidCapability) == PasidCapability(
        0x1001B, privileged=1, max_width=20, enable=1, privileged_enable=1
    )
    assert config.get(AtsCapability) == AtsCapability(
        0x1000F, invalidate_queue_depth=0x1F, smallest_translation_unit=10, enable=1
    )
    assert config.get(PriCapability) == PriCapability(
        0x10013, enable=1, prg_response_pasid_required=1, outstanding_capacity=0x200, outstanding_allocation=0x20
    )
    assert config.prefix_supported is True
    assert config.has(SriovCapability) is False
    assert config.unsaid == frozenset()
    assert config.findings == []
    assert config.origin(PasidCapability) == "lspci, 0000:6a:01.0, line 14, PASID capability"


@pytest.mark.parametrize("address", ["6a:01.0", "0000:6a:01.0", "10000:6a:01.0"])
def test_addresses_come_with_and_without_their_segment(address: str) -> None:
    function = one(DSA.replace("6a:01.0", address, 1))
    assert str(function.rid) == f"{address if len(address) > 8 else '0000:6a:01.0'}"


@pytest.mark.parametrize(("printed", "bits"), [("14", 20), ("10", 16), ("0f", 15), ("00", 0), ("08", 8)])
def test_a_width_is_hexadecimal(printed: str, bits: int) -> None:
    config = one(DSA.replace("Width: 14", f"Width: {printed}")).config
    assert (config.pasid_bits, config.findings) == (bits, [])


@pytest.mark.parametrize(("printed", "bits"), [("20", 20), ("16", 16), ("19", 19)])
def test_a_width_that_only_fits_as_decimal_is_taken_as_decimal(printed: str, bits: int) -> None:
    config = one(DSA.replace("Width: 14", f"Width: {printed}")).config
    assert config.pasid_bits == bits
    assert only(config) == (
        "lspci.decimal-width",
        f"lspci, 0000:6a:01.0, line 15: Max PASID Width: {printed} is {int(printed, 16)} in hexadecimal, as lspci "
        f"prints it, and a PASID has 20 bits; {printed} is taken as decimal",
    )


def test_a_width_that_fits_neither_way_is_20() -> None:
    config = one(DSA.replace("Width: 14", "Width: 1f")).config
    assert config.pasid_bits == 20
    assert only(config)[0] == "pci.pasid-width"


def test_older_versions_leave_things_unknown() -> None:
    text = DSA.replace(" EETLPPrefix+, MaxEETLPPrefixes 1", "").replace(" Stopped- PASID+", " Stopped-")
    config = one(text).config
    assert config.prefix_supported is None
    assert config.unsaid == {"prefix_supported", "prg_response_pasid_required"}
    (endpoint,) = functions_say(read_lspci(text), "lspci").endpoints
    assert "prg_pasid" not in endpoint.keys
    assert "prefix_path" not in endpoint.keys or endpoint.keys["pasid_enabled"].value


def test_the_oldest_versions_name_capabilities_by_number() -> None:
    config = one(DSA.replace("[220 v1] Process Address Space ID (PASID)", "[220 v1] #1b")).config
    assert config.pasid_bits == 20


def test_one_v_names_capabilities_only() -> None:
    """`lspci -v` prints no line below the names."""
    text = """\
6a:01.0 System peripheral [0880]: Intel Corporation Device [8086:0b25]
\tFlags: bus master, fast devsel, latency 0, NUMA node 0, IOMMU group 7
\tCapabilities: [40] Express Root Complex Integrated Endpoint, IntMsgNum 0
\tCapabilities: [220] Process Address Space ID (PASID)
\tKernel driver in use: idxd
"""
    function = one(text)
    assert function.group == "7"
    assert function.config.has(PasidCapability) is True
    assert function.config.get(PasidCapability) is None
    assert function.config.pasid_bits is None
    assert function.port_type is PortType.INTEGRATED_ENDPOINT
    assert function.config.prefix_supported is None


def test_access_denied_leaves_capabilities_unknown() -> None:
    text = "6a:01.0 System peripheral: Intel Corporation Device 0b25\n\tCapabilities: <access denied>\n"
    function = one(text)
    assert function.kind == "dsa", "the name that lspci gives what it does not know has the number"
    assert function.config.has(PasidCapability) is None
    (finding,) = functions_say([function], "lspci").findings
    assert finding.why == (
        "lspci: of 1 of 1 functions the capabilities are not all known; the first is 0000:6a:01.0: line 2: "
        "<access denied>"
    )
    assert finding.rule.remedy.startswith("read as root")


def test_plain_lspci_tells_nothing_of_capabilities() -> None:
    function = one("6a:01.0 System peripheral: Intel Corporation Device 0b25")
    assert function.config.has(ExpressCapability) is None
    assert function.config.unread == "the text has no capabilities"


def test_a_dump_of_256_bytes_is_completed_by_the_text() -> None:
    data = MADE["6a:01.0"]
    rows = dump({"6a:01.0": data}, 256).split("\n", 1)[1]
    function = one(DSA + rows)
    assert function.config.size == 256
    assert function.config.pasid_bits == 20
    assert function.config.header.multi_function is False, "only bytes say it"
    assert function.config.unread == ""
    assert one(dump({"6a:01.0": data}, 256)).config.has(PasidCapability) is None


def test_a_dump_counts_before_its_text() -> None:
    rows = dump({"6a:01.0": config(endpoint(), PortType.ENDPOINT, [pasid(7)])}).split("\n", 1)[1]
    function = one(DSA + rows)
    assert function.config.pasid_bits == 7
    assert function.driver == "idxd"


def test_outputs_may_follow_each_other() -> None:
    data = {"6a:01.0": MADE["6a:01.0"]}
    function = one(DSA + "\n" + dump(data) + dump(data))
    assert (function.config.size, function.driver, function.config.findings) == (4096, "idxd", [])


@pytest.mark.parametrize("mark", ["    ", "> ", ">> ", "\t"])
def test_a_quoted_or_indented_text_is_read(mark: str) -> None:
    text = "".join(f"{mark}{line}\r\n" for line in (DSA + dump({"01:00.0": MADE["01:00.0"]})).splitlines())
    first, second = read_lspci(text)
    assert (first.config.pasid_bits, second.config.pasid_bits) == (20, 20)


def test_a_gap_in_a_dump_ends_it() -> None:
    lines = dump({"01:00.0": MADE["01:00.0"]}).splitlines()
    function = one("\n".join(lines[:20] + lines[21:]))
    assert function.config.size == 19 * 16
    assert only(function.config) == (
        "lspci.gap",
        "lspci, line 21: the dump of 0000:01:00.0 goes on at 0x140, and 0x130 is next; the rest is not read",
    )


def test_a_dump_without_a_whole_header_is_not_read() -> None:
    function = one("01:00.0 0880: 1b36:1100\n00: 36 1b 00 11\n")
    assert only(function.config) == (
        "lspci.stub",
        "lspci: the dump of 0000:01:00.0 has 4 bytes, fewer than the 64 of a header; it is not read",
    )
    assert function.device_id == 0x1100


def test_a_function_that_is_asleep_is_unknown() -> None:
    text = "01:00.0 3D controller: NVIDIA (rev ff) (prog-if ff)\n\t!!! Unknown header type 7f\n"
    config = one(text).config
    assert config.has(PasidCapability) is None
    assert only(config)[0] == "pci.asleep"


@pytest.mark.parametrize(("mark", "rule"), [("looped", "pci.capability-loop"), ("broken", "pci.broken-list")])
def test_a_broken_list_is_a_finding_with_its_line(mark: str, rule: str) -> None:
    config = one(DSA + f"\tCapabilities: [220] <chain {mark}>\n").config
    assert only(config)[0] == rule
    assert "lspci, 0000:6a:01.0, line 23: " in only(config)[1]


@pytest.mark.parametrize("text", ["", "hello\n", "-[0000:00]-+-00.0\n", '00:00.0-"Host bridge"\n'])
def test_what_names_no_function_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^here: no line begins with the address of a PCI function, as lspci's do: "):
        read_lspci(text, "here")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3000), st.text(max_size=12), st.integers(0, 30)), max_size=6))
def test_any_mutation_of_a_text_is_read_or_refused(changes: list[tuple[int, str, int]]) -> None:
    text = DSA + dump({"6a:01.0": MADE["6a:01.0"]}, 256)
    for at, put, cut in changes:
        text = text[:at] + put + text[at + cut :]
    try:
        functions = read_lspci(text)
    except InputError:
        return
    said = functions_say(functions, "lspci")
    assert len(said.endpoints) == len({function.rid for function in functions})
    assert all(finding.why for finding in said.findings)
