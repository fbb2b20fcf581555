"""What people do with `import`: all of it ends in a machine, or in one line that says what to do instead."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pasidlab.cli.app import app
from pasidlab.errors import InputError
from pasidlab.platforms import import_machine
from pasidlab.platforms.acpi.dmar_words import DmarFields
from pasidlab.platforms.machine import written
from pasidlab.platforms.merge import merge
from pasidlab.platforms.said import Iommu, Known, Said
from pasidlab.toml_text import Commented
from tests.acpi_tables import table
from tests.host_files import CMDLINE, link, make_host, write
from tests.test_dmar import bridge, drhd

DATA = Path(__file__).parent / "data" / "platforms"
DMAR, OTHER_DMAR = DATA / "acpi-x86" / "dmar-server.aml", DATA / "acpi-x86" / "dmar-q35.aml"
IORT, LOG = DATA / "acpi-arm" / "components.aml", DATA / "host" / "vtd.dmesg"
OTHERS = "acpi-riscv/rimt-two-iommus.aml", "acpi-x86/ivrs-server.aml", "host/arm64.config", "devicetree/server.dtb"
LSPCI = DATA / "pci" / "made-vv.txt.gz"


def refused(*arguments: str | Path) -> str:
    """Run `pasidlab import`, which must fail as bad input does."""
    result = CliRunner().invoke(app, ["import", *map(str, arguments)])
    assert isinstance(result.exception, InputError), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


def body(text: str) -> dict[str, object]:
    """Return a machine without its title, which has the names in the order in which they were given."""
    return {key: value for key, value in tomllib.loads(text).items() if key not in ("title", "about")}


class TestSources:
    def test_in_any_order_make_the_same_machine(self) -> None:
        machines = [body(import_machine(order).text) for order in permutations([DMAR, LSPCI, LOG])]
        assert all(machine == machines[0] for machine in machines)

    def test_named_twice_are_read_once(self, tmp_path: Path) -> None:
        again = tmp_path / "again.aml"
        again.symlink_to(DMAR)
        once, twice = import_machine([DMAR]), import_machine([DMAR, DMAR, again])
        assert body(once.text) == body(twice.text)
        assert twice.remarks == once.remarks

    def test_of_two_machines_are_told(self) -> None:
        findings = import_machine([DMAR, OTHER_DMAR]).findings
        assert findings[0].rule.id == "import.two-machines"
        assert "dmar-server.aml and dmar-q35.aml are each a DMAR" in findings[0].why

    def test_that_are_two_hosts_are_told(self, tmp_path: Path) -> None:
        hosts = [make_host(tmp_path / name) for name in ("a", "b")]
        whys = [one.why for one in import_machine(hosts).findings if one.rule.id == "import.two-machines"]
        assert f"{hosts[0]} and {hosts[1]} are each a host" in whys[0]

    def test_a_copy_of_a_table_beside_it_is_no_other_machine(self, tmp_path: Path) -> None:
        copy = write(tmp_path, "DMAR", DMAR.read_bytes())
        assert "import.two-machines" not in {one.rule.id for one in import_machine([DMAR, copy]).findings}

    def test_the_bus_numbers_of_lspci_tell_a_dmar_what_lies_behind_its_bridges(self, tmp_path: Path) -> None:
        units = drhd(0x1000, bridge(0, 2)), drhd(0x2000, rest=True)
        dmar = write(tmp_path, "DMAR", table("DMAR", DmarFields().pack() + b"".join(units)))
        for sources in ([dmar, LSPCI], [LSPCI, dmar]):
            behind = {one.name: one.iommu for one in import_machine(sources).spec.device}
            assert behind["0000:04:00.0"] == "dmar0"
            assert behind["0000:6a:01.0"] == "dmar1"

    def test_a_command_line_alone_is_a_machine_without_devices(self, tmp_path: Path) -> None:
        spec = import_machine([write(tmp_path, "cmdline", CMDLINE)]).spec
        assert "intel_iommu=on,sm_on" in spec.cmdline
        assert not spec.device

    def test_of_other_cpus_than_their_iommus_lose_what_does_not_suit(self, tmp_path: Path) -> None:
        imported = import_machine([DMAR, write(tmp_path, "config", "CONFIG_ARM64=y\nCONFIG_ARM64_64K_PAGES=y\n")])
        told = [one.why for one in imported.findings if one.rule.id == "import.cpu-mismatch"]
        by = f"{tmp_path}/config, ARM64_64K_PAGES"
        assert told == [f"page_size is 65536 by {by}, which no machine with an intel-vtd has; it is left out"]
        assert imported.spec.cpu.page_size == 4096

    def test_of_an_arm64_kernel_have_no_tables_of_five_levels(self) -> None:
        made = written(merge([Said("proc", cpu={"arch": Known("arm64", "log"), "la57": Known(True, "cpuinfo")})]))
        assert [one.rule.id for one in made.findings] == ["import.cpu-mismatch"]
        assert made.plain["cpu"] == {"arch": "arm64"}

    def test_each_with_each_are_a_machine(self) -> None:
        files = [DMAR, IORT, LOG, LSPCI, *(DATA / name for name in OTHERS)]
        for pair in permutations(files, 2):
            assert import_machine(pair, every=True).spec.iommu is not None

    def test_with_characters_that_control_a_terminal_are_shown_without(self, tmp_path: Path) -> None:
        spec = import_machine([write(tmp_path, "cmdline", "root=/dev/x pci=noats\x1b[31m intel_iommu=on\n")]).spec
        assert spec.cmdline == "pci=noats?[31m intel_iommu=on"

    def test_of_an_iommu_with_page_requests_and_no_ats_have_neither(self) -> None:
        unit = Iommu(
            "dmar0", "intel-vtd", "DMAR", keys={"ats": Known(False, "ecap, DT"), "pri": Known(True, "ecap, PRS")}
        )
        made = written(merge([Said("regs", iommus=[unit])])).document
        assert made["iommu"][0]["pri"] == Commented(False, "ecap, PRS, but no ATS: ecap, DT")


class TestText:
    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda text: text.replace("\n", "\r\n").encode(), id="CRLF"),
            pytest.param(lambda text: text.encode("utf-16"), id="UTF-16"),
            pytest.param(lambda text: text.encode("utf-8-sig"), id="BOM"),
        ],
    )
    @pytest.mark.parametrize("name", ["acpi-arm/acpidump.txt", "host/vtd.dmesg", "debugfs/scalable.iommu_regset.txt"])
    def test_of_windows_is_read_as_any_other(self, tmp_path: Path, name: str, change: Callable[[str], bytes]) -> None:
        place = DATA / name
        changed = write(tmp_path, place.name, change(place.read_text()))
        assert body(import_machine([changed]).text) == body(import_machine([place]).text)


class TestNoSource:
    def test_a_directory_that_is_no_host(self, tmp_path: Path) -> None:
        assert f"{tmp_path}: is no host and no capture" in refused(tmp_path)
        write(tmp_path, "DMAR", DMAR.read_bytes())
        assert "name single files one by one" in refused(tmp_path)

    def test_links_in_a_circle(self, tmp_path: Path) -> None:
        link(tmp_path, "a", "b")
        link(tmp_path, "b", "a")
        assert "cannot be read: Too many levels of symbolic links" in refused(tmp_path / "a")
        link(tmp_path, "sys/bus/pci/devices/0000:00:01.0", "0000:00:01.0")
        assert import_machine([tmp_path]).spec.device == []

    @pytest.mark.parametrize("name", ["pipe", "pipe.tar.gz"])
    def test_a_pipe_is_not_waited_for(self, tmp_path: Path, name: str) -> None:
        os.mkfifo(tmp_path / name)
        assert f"{name}: " in refused(tmp_path / name)

    def test_a_pipe_among_a_hosts_files_is_passed_over(self, tmp_path: Path) -> None:
        make_host(tmp_path)
        (tmp_path / "proc/cmdline").unlink()
        os.mkfifo(tmp_path / "proc/cmdline")
        assert import_machine([tmp_path]).spec.cmdline == ""

    def test_a_huge_file(self, tmp_path: Path) -> None:
        with (tmp_path / "huge").open("wb") as file:
            file.truncate(2 << 30)
        assert "huge: larger than 64 MiB, the most that is read" in refused(tmp_path / "huge")

    def test_a_huge_archive(self, tmp_path: Path) -> None:
        with (tmp_path / "huge.tar").open("wb") as file:
            file.truncate(2 << 30)
        assert "huge.tar: " in refused(tmp_path / "huge.tar")

    def test_a_description_is_one_already(self, tmp_path: Path) -> None:
        machine = write(tmp_path, "machine.toml", "")
        assert "machine.toml: is a description already" in refused(DMAR, machine)

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (b"", "the file is empty"),
            (b"\n \n", "is empty"),
            (b"a letter", "Files that can be read: ACPI tables"),
            (b"\0" * 100, "which is no ACPI signature"),
            (b"\x1f\x8bnot so", "cannot be unpacked"),
            (b"\xff\xfe", "is empty"),
        ],
    )
    def test_a_file_of_nothing_known(self, tmp_path: Path, content: bytes, why: str) -> None:
        message = refused(write(tmp_path, "file", content))
        assert message.startswith(f"{tmp_path}/file")
        assert why in message

    def test_a_file_that_is_not_there_and_a_name_that_cannot_be(self, tmp_path: Path) -> None:
        assert "none: cannot be read: No such file or directory" in refused(tmp_path / "none")
        with pytest.raises(InputError, match="no name of a file has a zero byte"):
            import_machine(["a\0b"])


class TestOutput:
    def test_onto_a_source_is_refused(self, tmp_path: Path) -> None:
        source = write(tmp_path, "DMAR", DMAR.read_bytes())
        link(tmp_path, "link", "DMAR")
        for output in ("DMAR", "link"):
            assert "is a source, too, and would be lost" in refused(source, "-o", tmp_path / output)
        assert source.read_bytes() == DMAR.read_bytes()

    def test_is_not_begun_when_a_source_cannot_be_read(self, tmp_path: Path) -> None:
        output = tmp_path / "machine.toml"
        refused(DMAR, tmp_path / "none", "-o", output)
        assert list(tmp_path.iterdir()) == []
        output.write_text("title = 'mine'\n")
        refused(DMAR, tmp_path / "none", "-o", output)
        assert output.read_text() == "title = 'mine'\n"

    def test_of_a_circle_of_links_is_a_file(self, tmp_path: Path) -> None:
        link(tmp_path, "a", "a")
        assert CliRunner().invoke(app, ["import", str(DMAR), "-o", str(tmp_path / "a")]).exit_code == 0
        assert (tmp_path / "a").read_text().startswith("title")


def test_a_source_of_which_nothing_comes_is_a_finding(tmp_path: Path) -> None:
    log = tmp_path / "dmesg.txt"
    log.write_text("[    0.000000] Linux version 6.12.0\n[    0.100000] random: crng init done\n")
    assert [one.why for one in import_machine([log]).findings] == ["nothing in dmesg.txt bears on PASIDs"]


def test_prose_that_begins_a_line_with_iommu_is_no_kernel_log(tmp_path: Path) -> None:
    prose = tmp_path / "notes.md"
    prose.write_text("The word\niommu stands at the beginning of this line.\n")
    with pytest.raises(InputError, match=r"notes\.md: holds no ACPI table"):
        import_machine([prose])
