"""`pasidlab decode`: what each bit of a word says, and every way to give it wrong."""

from __future__ import annotations

import io
import json
import sys
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pasidlab.devices.idxd import descriptors, registers
from pasidlab.errors import InputError
from pasidlab.formats import (
    FORMATS,
    bits_text,
    decode,
    decode_bytes,
    decode_words,
    fields_dict,
    fields_text,
    find_format,
)
from pasidlab.hw.pagetable.descriptors import Ap, S2Ap, Shareability, Stage1Leaf, Stage2Leaf
from pasidlab.hw.smmuv3.commands import Resume, Sync
from pasidlab.hw.smmuv3.records import FPermission
from pasidlab.hw.smmuv3.registers import REGISTERS, Cr0
from pasidlab.hw.smmuv3.structures import Cd, Config, L1Std, S1Fmt, Ste
from pasidlab.hw.vtd.descriptors import InvalidationWait, PasidCacheInvalidate
from pasidlab.hw.vtd.records import FaultRecord, PageRequest, Reason
from pasidlab.hw.vtd.registers import REGISTERS as VTD_REGISTERS
from pasidlab.hw.vtd.structures import (
    ContextEntry,
    PasidDirectoryEntry,
    PasidEntry,
    Pgtt,
    RootEntry,
    ScalableContextEntry,
    ScalableRootEntry,
)
from pasidlab.platforms.acpi import dmar_words, header, iort_words, ivrs_words, rhct_words, rimt_words, viot_words
from pasidlab.platforms.acpi.iort_words import RootComplex
from pasidlab.platforms.pci import words
from pasidlab.report.decode import print_decoded
from pasidlab.words import Word

from .conftest import Command

LEGAL_CONTEXT = ScalableContextEntry(p=True, paside=True, pasiddirptr=0x6000)
LEGAL_PASID = PasidEntry(p=True, pgtt=Pgtt.FIRST_STAGE, did=1, nxe=True, fsptptr=0x8000)
STE = Ste(v=True, config=Config.STAGE_1, s1fmt=S1Fmt.LEAF_64K, s1contextptr=0x8_0004_4000, s1cdmax=16)
LEGAL_CD = Cd(v=True, t0sz=16, epd1=True, ips=5, aa64=True, asid=7, ttb0=0x8_0000_C000)


def stdin(monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))


class TestFormats:
    def test_every_structure_queue_entry_register_and_descriptor_has_a_format(self) -> None:
        structures = {"ste", "cd", "l1std", "l1cd", "event", "cmd", "pri"} | {o.name.lower() for o in REGISTERS}
        expected = {f"smmuv3.{name}" for name in structures} | {"vmsa.pte", "vmsa.table", "vmsa.stage2"}
        vtd = {"root", "context", "pasid_dir", "pasid", "legacy_root", "legacy_context", "qi", "fault", "prq"}
        vtd |= {"second", "second_table", "iva", "iotlb"} | {o.name.lower() for o in VTD_REGISTERS}
        expected |= {f"vtd.{name}" for name in vtd} | {"x86.pte", "x86.large", "x86.table"}
        expected.add("amd.efr")
        assert {name for name in FORMATS if name.startswith(("smmuv3.", "vmsa.", "vtd.", "x86.", "amd."))} == expected

    def test_every_word_of_dsa_and_iaa_has_a_format(self) -> None:
        declared = {
            word
            for module in (descriptors, registers)
            for word in vars(module).values()
            if isinstance(word, type) and issubclass(word, Word) and word not in (Word, descriptors.Common)
        }
        assert {type(form.read(0)) for name, form in FORMATS.items() if name.startswith("idxd.")} == declared

    @pytest.mark.parametrize(
        ("family", "module"),
        [
            ("acpi", header),
            ("iort", iort_words),
            ("dmar", dmar_words),
            ("ivrs", ivrs_words),
            ("rimt", rimt_words),
            ("rhct", rhct_words),
            ("viot", viot_words),
            ("pci", words),
        ],
    )
    def test_every_word_of_firmware_and_of_configuration_space_has_a_format(
        self, family: str, module: ModuleType
    ) -> None:
        kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, Word)]
        declared = {kind for kind in kinds if kind.__module__ == module.__name__}
        assert {type(form.read(0)) for name, form in FORMATS.items() if name.startswith(f"{family}.")} == declared

    @given(st.sampled_from(sorted(FORMATS)), st.data())
    def test_any_value_decodes_and_its_fields_and_reserved_bits_make_it_up(
        self, name: str, data: st.DataObject
    ) -> None:
        form = FORMATS[name]
        raw = data.draw(st.integers(0, (1 << form.bits) - 1))
        record = decode(form, raw).as_dict()
        shifts = {field.lsb: field.shift for field in form.read(raw).FIELDS.values()}
        fields = sum(field["value"] >> shifts[field["lsb"]] << field["lsb"] for field in record["fields"])
        assert fields + int(record["reserved"], 16) == raw
        assert json.loads(json.dumps(record)) == record

    def test_a_field_bears_the_name_of_the_specification_where_python_reserves_it(self) -> None:
        names = {field["name"] for field in decode(FORMATS["smmuv3.event"], 0x10).as_dict()["fields"]}
        assert "class" in names
        assert not any(name.endswith("_") for name in names)

    @pytest.mark.parametrize(
        "name", ["vmsa.pte", "vmsa.table", "vmsa.stage2", "x86.pte", "x86.large", "x86.table", "vtd.second"]
    )
    def test_every_field_of_a_descriptor_says_what_it_is_for(self, name: str) -> None:
        assert all(field["doc"] for field in decode(FORMATS[name], 0).as_dict()["fields"])

    def test_words_and_bytes_of_one_entry_say_the_same(self) -> None:
        form = find_format("smmuv3.ste")
        words = " ".join(f"{word:x}" for word in STE.words)
        assert decode_words(form, words) == decode_bytes(form, STE.pack().hex()) == decode(form, STE)

    @pytest.mark.parametrize(
        "text", ["0x8000_0000_8000_8009", "8000000080008009", "0X8000000080008009", "8000000080008009,"]
    )
    def test_a_word_may_have_a_prefix_underscores_and_a_comma(self, text: str) -> None:
        assert decode_words(find_format("smmuv3.l1std"), text).word == 0x8000_0000_8000_8009

    def test_sixteen_digits_are_a_word_unless_they_are_called_bytes(self) -> None:
        form, text = find_format("smmuv3.l1std"), L1Std(span=9, l2ptr=0x8000_8000).pack().hex()
        assert decode_bytes(form, text).word == L1Std(span=9, l2ptr=0x8000_8000)
        assert decode_words(form, text).word == int(text, 16)

    @pytest.mark.parametrize("name", ["smmuv3.ste", "smmuv3.cd", "vtd.context", "vtd.pasid", "vtd.qi", "idxd.desc"])
    def test_words_that_are_left_out_of_a_table_entry_are_zero(self, name: str) -> None:
        form = find_format(name)
        assert decode_words(form, "1").word == decode_bytes(form, "01").word == 1

    def test_what_later_revisions_added_to_a_node_may_be_left_out(self) -> None:
        older = RootComplex(ats_supported=True, pci_segment_number=2).pack()[:16]
        decoded = decode_bytes(find_format("iort.root_complex"), older.hex())
        assert decoded.word == RootComplex(ats_supported=True, pci_segment_number=2)
        with pytest.raises(InputError, match=r"iort\.smmu has 44 bytes; 16 given"):
            decode_bytes(find_format("iort.smmu"), older.hex())

    def test_bytes_of_configuration_space_are_a_capability_as_lspci_prints_it(self) -> None:
        decoded = decode_bytes(find_format("pci.pasid"), "1b 00 01 00 04 14 01 00")
        assert fields_dict(decoded.word) == {
            "capability_id": 0x1B,
            "version": 1,
            "privileged": True,
            "max_width": 20,
            "enable": True,
        }


class TestLegality:
    def test_the_default_hardware_accepts_a_legal_entry(self) -> None:
        for name, word in (
            ("smmuv3.ste", STE),
            ("smmuv3.cd", LEGAL_CD),
            ("vtd.root", ScalableRootEntry(up=True, uctp=0x5000)),
            ("vtd.context", LEGAL_CONTEXT),
            ("vtd.pasid", LEGAL_PASID),
            ("vtd.pasid_dir", PasidDirectoryEntry(p=True, smptblptr=0x7000)),
            ("vtd.legacy_root", RootEntry(p=True, ctp=0x5000)),
            ("vtd.legacy_context", ContextEntry(p=True, aw=2)),
            ("vtd.qi", InvalidationWait.make(sw=True, staddr=0x4000)),
        ):
            decoded = decode(find_format(name), word)
            assert (decoded.refused, decoded.as_dict()["legal"]) == (None, True)

    @pytest.mark.parametrize(
        ("name", "word", "rule"),
        [
            ("smmuv3.ste", STE.replace(v=False), "smmu.ste-invalid"),
            ("smmuv3.ste", STE.replace(s1cdmax=21), "smmu.ste-s1cdmax"),
            ("smmuv3.cd", LEGAL_CD.replace(aa64=False), "smmu.cd-aa64"),
            ("smmuv3.cd", LEGAL_CD.replace(t0sz=15), "smmu.cd-tsz"),
            ("vtd.root", ScalableRootEntry(), "vtd.root-not-present"),
            ("vtd.root", ScalableRootEntry(lp=True, uctp=0x5000), "vtd.root-not-present"),
            ("vtd.context", LEGAL_CONTEXT.replace(p=False), "vtd.context-not-present"),
            ("vtd.context", LEGAL_CONTEXT | 1 << 200, "vtd.context-reserved"),
            ("vtd.pasid", LEGAL_PASID.replace(p=False), "vtd.pasid-not-present"),
            ("vtd.pasid", LEGAL_PASID.replace(pgtt=7), "vtd.pasid-pgtt"),
            ("vtd.pasid", LEGAL_PASID.replace(fspm=2), "vtd.pasid-fspm"),
            ("vtd.pasid", LEGAL_PASID.replace(pgtt=2, aw=0), "vtd.pasid-aw"),
            ("vtd.pasid", LEGAL_PASID.replace(pcd=True), "vtd.pasid-reserved"),
            ("vtd.pasid_dir", 0x7000, "vtd.directory-not-present"),
            ("vtd.legacy_context", ContextEntry(p=True, aw=7), "vtd.legacy-context-invalid"),
            ("vtd.qi", PasidCacheInvalidate.make(g=2), "vtd.qi-granularity"),
            ("vtd.qi", 0xF, "vtd.qi-type"),
        ],
    )
    def test_a_sibling_that_differs_in_one_field_is_refused_with_its_rule(
        self, name: str, word: int, rule: str
    ) -> None:
        record = decode(find_format(name), word).as_dict()
        assert (record["legal"], record["rule"]) == (False, rule)

    @pytest.mark.parametrize(
        ("name", "word", "answer"),
        [
            ("smmuv3.ste", 0, "C_BAD_STE"),
            ("smmuv3.cd", 0, "C_BAD_CD"),
            ("vtd.context", 0, "CONTEXT_NOT_PRESENT"),
            ("vtd.pasid", LEGAL_PASID.replace(pgtt=7), "PASID_INVALID"),
            ("vtd.qi", PasidCacheInvalidate.make(g=2), "IQE RESERVED_FIELD"),
            ("vtd.pasid", LEGAL_PASID, None),
        ],
    )
    def test_what_hardware_answers_to_a_word_that_it_refuses_is_told(
        self, name: str, word: int, answer: str | None
    ) -> None:
        assert decode(find_format(name), word).as_dict()["answer"] == answer

    def test_what_nothing_refuses_is_neither_legal_nor_illegal(self) -> None:
        assert decode(find_format("vmsa.pte"), 3).as_dict()["legal"] is None


class TestText:
    def test_bits_are_ranges_with_the_most_significant_first(self) -> None:
        assert bits_text(0xF000_0000_0000_1001) == "63:60, 12, 0"

    def test_fields_that_are_zero_are_left_out_and_reserved_bits_are_not(self) -> None:
        assert fields_text(L1Std(0x8000_0000_8000_8009)) == "span 9, l2ptr 0x80008000, reserved bits 63"
        assert fields_text(Cr0()) == "all zero"


class TestCommand:
    def test_an_entry_is_a_table_of_its_fields_with_the_verdict(self, pasidlab: Command) -> None:
        done = pasidlab("decode", "smmuv3.ste", *(hex(word) for word in STE.words))
        assert done.status == 0
        assert "config       │     3:1 │           5 │ STAGE_1" in done.out
        assert "log2 of the number of CDs; 0: one CD, no substreams" in done.out
        assert done.out.splitlines()[-1].startswith("accepted by an SMMU with 20 SubstreamID bits, 48-bit addresses")

    def test_a_refused_entry_says_the_event_and_the_rule(self, pasidlab: Command) -> None:
        done = pasidlab("decode", "smmuv3.cd", "0")
        assert done.status == 0
        assert "refused with C_BAD_CD: V == 0 [smmu.cd-invalid; IHI 0070 G.b, 5.4 CD]" in done.out

    def test_a_descriptor_says_what_it_allows(self, pasidlab: Command) -> None:
        stage1 = pasidlab("decode", "vmsa.pte", hex(Stage1Leaf(valid=True, ap=Ap.READ_ONLY, sh=Shareability.ISH))).out
        assert "ap            │   7:6 │     3 │ READ_ONLY │ rights of data accesses" in stage1
        assert "sh            │   9:8 │     3 │ ISH       │ shareability" in stage1
        stage2 = pasidlab("decode", "vmsa.stage2", hex(Stage2Leaf(mem_attr=15, s2ap=S2Ap.WRITE_ONLY, xn=1))).out
        for name, meaning in (("mem_attr", "NORMAL_WB"), ("s2ap", "WRITE_ONLY"), ("xn", "UNPRIVILEGED_EXECUTABLE")):
            assert [line.split(" │ ")[3].rstrip() for line in stage2.splitlines() if line.startswith(name)] == [meaning]

    def test_reserved_bits_that_are_set_are_flagged(self, pasidlab: Command) -> None:
        assert "RESERVED BITS ARE SET: 5 (0x20)" in pasidlab("decode", "smmuv3.cr0", "0x21").out
        assert "RESERVED" not in pasidlab("decode", "smmuv3.cr0", "0x1").out

    @pytest.mark.parametrize(
        ("form", "word", "name"),
        [
            ("smmuv3.cmd", Sync.make(), "SYNC"),
            ("smmuv3.cmd", Resume.make(stag=5), "RESUME"),
            ("smmuv3.event", FPermission.make(sid=1), "F_PERMISSION"),
            ("vtd.qi", PasidCacheInvalidate.make(), "PASID_CACHE"),
            ("vtd.fault", FaultRecord(fr=Reason.PASID_NOT_PRESENT), "PASID_NOT_PRESENT"),
            ("vtd.prq", PageRequest(type=1), "PAGE_REQUEST"),
            ("idxd.desc", descriptors.DsaDescriptor(opcode=3), "MEMMOVE"),
            ("idxd.iaa_desc", descriptors.IaaDescriptor(opcode=0x43), "COMPRESS"),
            ("idxd.completion", descriptors.DsaCompletion(status=1), "SUCCESS"),
        ],
    )
    def test_commands_and_events_show_their_name(self, pasidlab: Command, form: str, word, name: str) -> None:
        out = pasidlab("decode", form, "--bytes", word.pack().hex()).out
        assert out.startswith(f"{form} {name}  ")

    def test_an_opcode_without_a_command_is_named_as_such(self, pasidlab: Command) -> None:
        assert "smmuv3.cmd of unknown code" in pasidlab("decode", "smmuv3.cmd", "ff", "0").out
        assert "smmuv3.event of unknown code" in pasidlab("decode", "smmuv3.event", "7f,0,0,0").out
        assert "vtd.qi of unknown code" in pasidlab("decode", "vtd.qi", "f").out
        assert "vtd.fault of unknown code" in pasidlab("decode", "vtd.fault", "0", "ff00000000").out

    def test_a_descriptor_has_the_fields_of_its_type(self, pasidlab: Command) -> None:
        assert "stdata" in pasidlab("decode", "vtd.qi", hex(InvalidationWait.make())).out
        assert "stdata" not in pasidlab("decode", "vtd.qi", hex(PasidCacheInvalidate.make())).out

    def test_what_software_may_keep_in_a_paging_entry_is_not_reserved(self, pasidlab: Command) -> None:
        for name in ("x86.pte", "x86.table", "vtd.second"):
            assert "RESERVED" not in pasidlab("decode", name, hex(0x01F0_0000_0000_0E67)).out
        assert "RESERVED" not in pasidlab("decode", "vtd.second_table", hex(0x01F0_0000_0000_0667)).out
        assert "RESERVED BITS ARE SET: 62, 11" in pasidlab("decode", "vtd.second_table", hex(1 << 62 | 0x0803)).out
        assert "RESERVED BITS ARE SET: 20:13" in pasidlab("decode", "x86.large", "0x1ff0e7").out

    def test_a_tlp_of_another_kind_is_told_as_such(self, pasidlab: Command) -> None:
        assert "accepted by a receiver" in pasidlab("decode", "pcie.pasid_prefix", "--bytes", "91012345").out
        for form, word in (("pcie.pasid_prefix", "0"), ("pcie.page_request", "0 0"), ("pcie.prg_response", "0 0")):
            done = pasidlab("decode", form, *word.split())
            assert "refused with malformed TLP" in done.out
            assert "pcie.other-kind" in done.out

    def test_json_is_one_object_an_entry(self, pasidlab: Command) -> None:
        record = json.loads(pasidlab("decode", "smmuv3.l1std", "0x8000000080008009", "--json").out)
        assert record["format"] == "smmuv3.l1std"
        assert record["words"] == ["0x8000000080008009"]
        assert record["reserved"] == "0x8000000000000000"
        assert record["fields"][0] == {
            "name": "span",
            "msb": 4,
            "lsb": 0,
            "value": 9,
            "meaning": "",
            "doc": "2^(span-1) STEs at l2ptr; 0 and above 11: none",
        }

    def test_standard_input_has_one_entry_a_line(self, pasidlab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        stdin(monkeypatch, b"# commands of a queue\n\n0x46 0\n0x3,0\n")
        found = [json.loads(line) for line in pasidlab("decode", "smmuv3.cmd", "-", "--json").out.splitlines()]
        assert [record["name"] for record in found] == ["SYNC", "CFGI_STE"]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (b"46 0\n46\n", "standard input, line 2: smmuv3.cmd has 2 64-bit words; 1 given"),
            (b"\xff\xfe\n", "line 1 '\\\\xff\\\\xfe': not hexadecimal"),
            (b"4" * 5000, "line 1: longer than 4096 bytes; one entry a line"),
            (b"\n# nothing\n", "standard input: empty; smmuv3.cmd is 128 bits of hexadecimal digits, one entry a line"),
        ],
    )
    def test_a_bad_line_is_named(
        self, pasidlab: Command, monkeypatch: pytest.MonkeyPatch, text: bytes, message: str
    ) -> None:
        stdin(monkeypatch, text)
        done = pasidlab("decode", "smmuv3.cmd", "-", "--json")
        assert done.status == 2
        assert message in done.err

    def test_a_closed_standard_input_is_named(self, pasidlab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stdin", None)
        done = pasidlab("decode", "smmuv3.cmd", "-")
        assert (done.status, done.err) == (2, "pasidlab: HEX '-': standard input is closed\n")

    @pytest.mark.parametrize("arguments", [(), ("--list",), ("smmuv3.ste", "--list")])
    def test_without_a_format_the_formats_are_listed(self, pasidlab: Command, arguments: tuple[str, ...]) -> None:
        lines = pasidlab("decode", *arguments).out.splitlines()
        assert len(lines) == len(FORMATS)
        assert lines[0] == "smmuv3.ste               512 bits  Stream table entry (5.2)"
        assert "smmuv3.cr0                32 bits  Register CR0 at 0x20" in lines

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("smmuv3.xyz", "0"), "FORMAT 'smmuv3.xyz': no such format; allowed: smmuv3.ste, smmuv3.cd, smmuv3.l1std"),
            (("vmsa.x", "0"), "FORMAT 'vmsa.x': no such format; allowed: vmsa.pte, vmsa.table, vmsa.stage2"),
            (("nvme.sqe", "0"), "FORMAT 'nvme.sqe': no such format; allowed: smmuv3.ste"),
            (("STE", "0"), "FORMAT 'STE': no such format; allowed: smmuv3.ste\n"),
            (("smmuv3.ste", "-", "0"), "HEX '-': stands alone, since it reads standard input"),
            (
                ("smmuv3.ste",),
                "HEX: missing; smmuv3.ste is 512 bits of hexadecimal digits, or - to read standard input",
            ),
            (("smmuv3.cr0", ""), "HEX: empty; hexadecimal digits are needed"),
            (("smmuv3.cr0", "0x"), "HEX '0x': not hexadecimal; allowed: 0-9, a-f, underscores, 0x in front"),
            (("smmuv3.cr0", "12g"), "HEX '12g': not hexadecimal"),
            (("smmuv3.cr0", "1_0000_0000"), "HEX '1_0000_0000': smmuv3.cr0 has 32 bits, and this does not fit"),
            (("smmuv3.cr0", "1", "2"), "HEX: smmuv3.cr0 has 1 64-bit word; 2 given"),
            (("smmuv3.event", "1", "2"), "HEX: smmuv3.event has 4 64-bit words; 2 given"),
            (
                ("smmuv3.cd", *"123456789"),
                "HEX: smmuv3.cd has 8 64-bit words, or fewer where the rest is zero; 9 given",
            ),
            (
                ("smmuv3.ste", "0b40020080000010d600000000000000"),
                "HEX '0b40020080000010d600000000000000': 32 digits; a word of smmuv3.ste has at most 16, and the bytes "
                "of a memory dump need --bytes",
            ),
            (("smmuv3.ste", "--bytes", "0b4"), "HEX '0b4': 3 digits are no whole bytes; two digits are a byte"),
            (("smmuv3.l1cd", "--bytes", "0b40"), "HEX: smmuv3.l1cd has 8 bytes; 2 given"),
            (("smmuv3.ste", "f" * 5000), f"HEX '{'f' * 40}...': 5000 digits"),
        ],
    )
    def test_a_bad_argument_is_named_with_what_is_allowed(
        self, pasidlab: Command, arguments: tuple[str, ...], message: str
    ) -> None:
        done = pasidlab("decode", *arguments)
        assert (done.status, done.out) == (2, "")
        assert done.err.startswith(f"pasidlab: {message}")

    def test_an_unknown_format_raises_for_programs_too(self) -> None:
        with pytest.raises(InputError, match="no such format"):
            find_format("")


def test_a_terminal_gets_the_same_fields_as_a_file() -> None:
    shown = io.StringIO()
    print_decoded(
        decode_words(find_format("smmuv3.cd"), "0x80000000"), Console(file=shown, force_terminal=True, width=120)
    )
    plain = io.StringIO()
    print_decoded(decode_words(find_format("smmuv3.cd"), "0x80000000"), Console(file=plain, width=120))
    cells = [[cell.strip() for cell in line.split("│")][:4] for line in plain.getvalue().splitlines() if "│" in line]
    for name, bits, value, _ in cells:
        assert any(name in line and bits in line and value in line for line in shown.getvalue().splitlines())
    assert len(cells) > 40
