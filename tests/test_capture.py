"""`pasidlab capture`: what it takes of a host, what it leaves, and that it is written whole or not at all."""

from __future__ import annotations

import errno
import gzip
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest
import typer
from typer.testing import CliRunner

from pasidlab.cli import capture as command
from pasidlab.errors import InputError
from pasidlab.platforms.host import capture as module
from pasidlab.platforms.host.capture import capture, missing_lines
from pasidlab.platforms.host.collect import MOST_WAITING, Task, collect
from pasidlab.platforms.host.dmesg import log_says
from pasidlab.platforms.host.iommus import iommus_say
from pasidlab.platforms.host.kernel import kernel_says
from pasidlab.platforms.host.manifest import Missing
from pasidlab.platforms.host.trees import ArchiveTree, CaptureTree, HostTree, open_tree
from pasidlab.platforms.host.wanted import SKIPPED, Wanted, command_line, first_cpu, kernel_log_lines, log_lines
from tests.host_files import DATA, DSA, PCI, ROOT_PORT, link, make_host, write


@pytest.fixture
def host(tmp_path: Path) -> Path:
    return make_host(tmp_path / "host")


def unreadable(monkeypatch: pytest.MonkeyPatch, path: str, error: Exception) -> None:
    """Let one file of a host fail, which root cannot do by its mode."""
    get: Callable[..., bytes] = HostTree.get

    def failing(self: HostTree, name: str, most: int = 1 << 20) -> bytes:
        if name == path:
            raise error
        return get(self, name, most)

    monkeypatch.setattr(HostTree, "get", failing)


@pytest.mark.parametrize("name", ["capture", "capture.tar.gz", "capture.tgz"])
def test_a_capture_reads_as_the_host_did(host: Path, tmp_path: Path, name: str) -> None:
    manifest = capture(host, tmp_path / name)
    live, tree = HostTree(host), open_tree(tmp_path / name)
    assert isinstance(tree, CaptureTree | ArchiveTree)
    assert tree.manifest == manifest
    assert (manifest.release, manifest.machine) == ("6.12.30", "x86_64")
    for path in (f"{PCI}/{DSA}/config", f"{PCI}/{DSA}/vendor", "sys/firmware/acpi/tables/DMAR", "proc/version"):
        assert tree.read(path) == live.read(path) is not None
    for path in (f"{PCI}/{DSA}", f"{PCI}/{DSA}/driver", f"{PCI}/{DSA}/iommu", "sys/class/iommu/dmar0"):
        assert tree.link(path) == live.link(path) is not None
    assert tree.names(PCI) == [ROOT_PORT, DSA]
    assert tree.findings == []


def test_readers_say_the_same_of_a_host_and_of_its_capture(host: Path, tmp_path: Path) -> None:
    link(host, "sys/class/iommu/smmu3.0x2b400000/device", "../../../devices/platform/arm-smmu-v3.0.auto")
    write(host, "var/log/dmesg", (DATA / "smmu.journal").read_bytes())
    capture(host, tmp_path / "c.tar.gz")
    live, tree = HostTree(host), open_tree(tmp_path / "c.tar.gz")
    for says in (kernel_says, log_says, iommus_say):
        first, second = says(live), says(tree)
        assert first is not None
        assert second is not None
        assert (first.machine, first.cpu, first.remarks) == (second.machine, second.cpu, second.remarks)
        assert [(one.name, one.keys) for one in first.iommus] == [(one.name, one.keys) for one in second.iommus]
        assert {one.name: one.keys for one in first.endpoints} == {one.name: one.keys for one in second.endpoints}
        assert [finding.why for finding in first.findings] == [finding.why for finding in second.findings]


def test_what_is_private_is_left(host: Path, tmp_path: Path) -> None:
    capture(host, tmp_path / "c")
    taken = b"".join(path.read_bytes() for path in (tmp_path / "c").rglob("*") if path.is_file())
    for private in (b"a licence", b"cryptdevice", b"UUID=", b"secret", b"usb 1-1"):
        assert private not in taken
    tree = open_tree(tmp_path / "c")
    assert tree.read("sys/firmware/acpi/tables/MSDM") is None
    assert tree.read("proc/cmdline") == b"BOOT_IMAGE=/vmlinuz intel_iommu=on,sm_on no5lvl pci=noats\n"
    assert (tree.read("proc/cpuinfo") or b"").count(b"vendor_id") == 1
    config = gzip.decompress(tree.read("proc/config.gz") or b"").decode()
    assert config.splitlines() == [
        "CONFIG_IOMMU_SUPPORT=y",
        "CONFIG_INTEL_IOMMU=y",
        "# CONFIG_INTEL_IOMMU_SVM is not set",
    ]
    assert "Unable to turn on user SVA" in (tree.read("var/log/dmesg") or b"").decode()


def test_platform_devices_are_taken_that_have_an_iommu_a_group_or_pasids(host: Path, tmp_path: Path) -> None:
    write(host, "sys/bus/platform/devices/zip/of_node/pasid-num-bits", b"\0\0\0\4")
    link(host, "sys/devices/platform/smmu/driver", "../../../bus/platform/drivers/arm-smmu-v3")
    link(host, "sys/bus/platform/devices/smmu", "../../../devices/platform/smmu")
    capture(host, tmp_path / "c")
    tree = open_tree(tmp_path / "c")
    assert tree.names("sys/bus/platform/devices") == ["acc", "smmu", "zip"]
    assert tree.link("sys/bus/platform/devices/acc/iommu_group") == "../../../kernel/iommu_groups/3"
    assert tree.read("sys/bus/platform/devices/zip/of_node/pasid-num-bits") == b"\0\0\0\4"


def test_work_queues_and_debugfs_are_taken(host: Path, tmp_path: Path) -> None:
    write(host, "sys/devices/pci0000:6a/x/dsa0/pasid_enabled", "1\n")
    link(host, "sys/bus/dsa/devices/dsa0", "../../../devices/pci0000:6a/x/dsa0")
    write(host, "sys/kernel/debug/iommu/intel/dmar_translation_struct", "IOMMU dmar0")
    write(host, f"sys/kernel/debug/iommu/intel/{DSA}/{min(SKIPPED)}", "large")
    write(host, "sys/kernel/debug/iommu/arm_smmu_v3/smmu/stream_table/8/ste", "STE")
    write(host, "sys/class/uacce/hisi_zip-0/flags", "1\n")
    capture(host, tmp_path / "c")
    tree = open_tree(tmp_path / "c")
    assert tree.read("sys/bus/dsa/devices/dsa0/pasid_enabled") == b"1\n"
    assert tree.read("sys/kernel/debug/iommu/intel/dmar_translation_struct") == b"IOMMU dmar0"
    assert tree.names("sys/kernel/debug/iommu/intel") == ["dmar_translation_struct"]
    assert tree.read("sys/kernel/debug/iommu/arm_smmu_v3/smmu/stream_table/8/ste") == b"STE"
    assert tree.read("sys/class/uacce/hisi_zip-0/flags") == b"1\n"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), "No such file or directory"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
    ],
)
def test_a_file_that_cannot_be_read_stops_nothing(
    host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, reason: str
) -> None:
    unreadable(monkeypatch, "sys/firmware/acpi/tables/DMAR", error)
    manifest = capture(host, tmp_path / "c")
    assert manifest.missing == [Missing("sys/firmware/acpi/tables/DMAR", reason)]
    assert open_tree(tmp_path / "c").read("proc/version") is not None


def test_a_directory_that_may_not_be_looked_into_is_named(
    host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = HostTree.listed

    def closed(self: HostTree, path: str) -> list[str]:
        if path == "sys/kernel/debug/iommu":
            raise PermissionError(errno.EACCES, "Permission denied")
        return listed(self, path)

    monkeypatch.setattr(HostTree, "listed", closed)
    manifest = capture(host, tmp_path / "c")
    assert manifest.missing == [Missing("sys/kernel/debug/iommu", "Permission denied")]


def test_a_file_that_is_too_large_or_cannot_be_unpacked_is_named(host: Path, tmp_path: Path) -> None:
    write(host, f"{PCI}/{DSA}/numa_node", bytes(65 << 10))
    write(host, "proc/config.gz", b"no gzip")
    write(host, "proc/cmdline", bytes(66 << 10))
    manifest = capture(host, tmp_path / "c")
    reasons = {one.path: one.reason for one in manifest.missing}
    assert reasons[f"{PCI}/{DSA}/numa_node"] == "larger than 65536 bytes"
    assert reasons["proc/config.gz"].startswith("not compressed by gzip")
    assert reasons["proc/cmdline"] == "larger than 65536 bytes"


def test_all_files_together_are_bounded(host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_TOTAL", 300)
    manifest = capture(host, tmp_path / "c")
    assert sum(entry.size for entry in manifest.files) <= 300
    assert any(one.reason.startswith("left out, for all files together") for one in manifest.missing)


def test_configuration_space_that_was_not_shown_whole_is_named_and_taken(
    host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = HostTree.get

    def short(self: HostTree, path: str, most: int = 1 << 20) -> bytes:
        return get(self, path, most)[: 64 if path.endswith("config") else None]

    monkeypatch.setattr(HostTree, "get", short)
    manifest = capture(host, tmp_path / "c")
    assert len(open_tree(tmp_path / "c").read(f"{PCI}/{DSA}/config") or b"") == 64
    reason = "only the first 64 bytes without root; capabilities are missing"
    assert missing_lines(manifest.missing) == [f"config of 2 PCI functions: {reason}"]


def test_links_in_loops_and_out_of_the_host_are_harmless(host: Path, tmp_path: Path) -> None:
    link(host, f"{PCI}/0000:00:00.0", "0000:00:00.0")
    link(host, f"{PCI}/0000:00:01.0", "../../../../../../../../../../..")
    link(host, "sys/devices/pci0000:6a/0000:6a:00.0/class", "/../../../etc/hostname")
    os.mkfifo(host / "sys/devices/pci0000:6a/0000:6a:00.0/device")
    manifest = capture(host, tmp_path / "c")
    assert manifest.missing == []
    assert manifest.links[f"{PCI}/0000:00:00.0"] == "0000:00:00.0"
    assert {entry.path for entry in manifest.files if ROOT_PORT in entry.path} == {
        f"{PCI}/{ROOT_PORT}/vendor",
        f"{PCI}/{ROOT_PORT}/config",
    }


def test_two_captures_of_one_host_are_equal(host: Path, tmp_path: Path) -> None:
    capture(host, tmp_path / "one.tar.gz")
    capture(host, tmp_path / "two.tar.gz")
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()


def test_an_archive_has_neither_owners_nor_times_nor_links(host: Path, tmp_path: Path) -> None:
    capture(host, tmp_path / "c.tar.gz")
    with tarfile.open(tmp_path / "c.tar.gz") as tar:
        members = tar.getmembers()
    assert all(member.isreg() for member in members)
    assert {(member.uid, member.uname, member.mtime, member.mode) for member in members} == {(0, "", 0, 0o644)}


def test_a_host_of_which_nothing_is_there_gives_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    manifest = capture(tmp_path / "empty", tmp_path / "c")
    assert (manifest.release, manifest.machine, manifest.files, manifest.links) == ("", "", [], {})
    assert [one.path for one in manifest.missing] == ["dmesg"]
    assert open_tree(tmp_path / "c").names("") == []


# Whole or not at all


@pytest.mark.parametrize("name", ["c", "c.tar.gz"])
def test_nothing_is_left_of_a_capture_that_is_interrupted(host: Path, tmp_path: Path, name: str) -> None:
    def interrupt(done: int, of: int) -> None:
        assert any(path.name.startswith(f".{name}.") for path in tmp_path.iterdir())
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        capture(host, tmp_path / name, progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["host"]


def test_progress_counts_every_file(host: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    capture(host, tmp_path / "c", progress=lambda done, of: told.append((done, of)))
    assert told == [(number + 1, len(told)) for number in range(len(told))]


def test_a_place_that_is_taken_is_refused_and_stays_as_it_is(host: Path, tmp_path: Path) -> None:
    write(tmp_path, "full/file", "text")
    archive = write(tmp_path, "c.tar.gz", "text")
    for place in (tmp_path / "full", archive):
        with pytest.raises(InputError, match="exists already; give a new name, or an empty directory"):
            capture(host, place)
    assert archive.read_text() == "text"
    with pytest.raises(InputError, match=r"nowhere/c: cannot be written: No such file"):
        capture(host, tmp_path / "nowhere" / "c")
    with pytest.raises(InputError, match=r"nowhere: is no directory"):
        capture(tmp_path / "nowhere", tmp_path / "c")


def test_an_empty_directory_is_filled(host: Path, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    capture(host, tmp_path / "c")
    assert (tmp_path / "c" / "manifest.json").is_file()


# Files that give no answer


def test_a_file_that_gives_no_answer_is_left_behind() -> None:
    released = Event()

    def get(path: str, most: int) -> bytes:
        if path == "b":
            released.wait()
        return path.encode()

    tasks = [Task(path, Wanted(path)) for path in "abc"]
    answers = list(collect(tasks, get, patience=0.2))
    released.set()
    assert [answer.data for answer in answers] == [b"a", None, b"c"]
    assert answers[1].error == "gave no answer in 0.2 seconds"


def test_after_too_many_files_without_an_answer_the_rest_is_not_tried() -> None:
    released = Event()
    tasks = [Task(str(number), Wanted("x")) for number in range(MOST_WAITING + 2)]

    def get(path: str, most: int) -> bytes:
        released.wait()
        return b""

    answers = list(collect(tasks, get, patience=0.01))
    released.set()
    assert [answer.error.split()[0] for answer in answers] == ["gave"] * MOST_WAITING + ["not"] * 2


# What is kept of text


def test_words_of_the_command_line_are_kept_that_bear_on_iommus() -> None:
    kept = command_line(b'root=/dev/sda ip=10.0.0.1 intel_iommu=on iommu.passthrough=1 arm-smmu-v3.x=1 a="b iommu=off"')
    assert kept == b"intel_iommu=on iommu.passthrough=1 arm-smmu-v3.x=1\n"


def test_the_first_cpu_is_kept() -> None:
    assert first_cpu(b"\nprocessor : 0\nflags : a\n\nprocessor : 1\n\n") == b"processor : 0\nflags : a\n"


def test_lines_of_the_log_are_kept_that_name_iommus_but_no_identifiers() -> None:
    log = b"DMAR: x\nusb: y\nKernel command line: intel_iommu=on\npasid 3\npasidlab: pid 4\nDMAR: serial 12\n"
    assert log_lines(log) == b"DMAR: x\npasid 3\n"


def test_of_a_log_of_all_programs_only_the_kernel_s_lines_are_kept_without_the_host_s_name() -> None:
    log = b"Nov 20 10:00:00 myhost kernel: [ 1.0] DMAR: x\nNov 20 10:00:00 myhost sshd[1]: iommu fan\n"
    assert kernel_log_lines(log) == b"[ 1.0] DMAR: x\n"


def test_missing_files_of_one_kind_are_counted_together() -> None:
    missing = [Missing(f"sys/kernel/iommu_groups/{number}/type", "no") for number in range(3)]
    missing += [Missing("sys/firmware/fdt", "Permission denied")]
    assert missing_lines(missing) == [
        "sys/kernel/iommu_groups/*/type (3 files): no",
        "sys/firmware/fdt: Permission denied",
    ]


# The command


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    command.register(app)
    app.callback()(lambda: None)
    return app


def test_the_command_says_what_was_taken_and_left(app: typer.Typer, host: Path, tmp_path: Path) -> None:
    write(host, "proc/config.gz", b"no gzip")
    into = tmp_path / "c.tar.gz"
    result = CliRunner().invoke(app, ["capture", str(into), "--root", str(host)])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0].startswith(f"{into}: Linux 6.12.30 on x86_64; ")
    assert lines[1] == "Not read, or not whole:"
    assert lines[2].startswith("  proc/config.gz: not compressed by gzip")
    assert lines[3] == "Left out on purpose:"
    assert any("serial numbers" in line for line in lines[4:])


def test_the_command_prints_a_record(app: typer.Typer, host: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["capture", str(tmp_path / "c"), "--root", str(host), "--json"])
    record = json.loads(result.output)
    assert record["release"] == "6.12.30"
    assert record["missing"] == []
    assert record["files"] == len([path for path in (tmp_path / "c").rglob("*") if path.is_file()]) - 1


def test_a_place_that_is_taken_is_bad_input(app: typer.Typer, host: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["capture", str(host), "--root", str(host)])
    assert isinstance(result.exception, InputError)
