"""The files of a host, of a capture and of an archive: what is read, what leads nowhere, and what is refused."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pasidlab.errors import InputError
from pasidlab.platforms.host import archive
from pasidlab.platforms.host.kmsg import read_kmsg
from pasidlab.platforms.host.manifest import FORMAT, FileEntry, Manifest, read_manifest
from pasidlab.platforms.host.paths import is_plain, resolve
from pasidlab.platforms.host.tree import link_name, read_text
from pasidlab.platforms.host.trees import ArchiveTree, CaptureTree, HostTree, open_tree
from tests.host_files import DSA, PCI, link, make_host, write

KEYS = ["tool", "release", "machine", "files", "links", "missing", "left_out"]


@pytest.fixture
def host(tmp_path: Path) -> Path:
    return make_host(tmp_path / "host")


def test_a_host_s_file_is_read_through_links_that_stay_inside(host: Path) -> None:
    tree = HostTree(host)
    assert read_text(tree, f"{PCI}/{DSA}/vendor") == "0x8086"
    assert read_text(tree, f"sys/kernel/iommu_groups/7/devices/{DSA}/iommu/intel-iommu/ecap") == "38d98e4f050df"
    assert tree.names("sys/class/iommu/dmar0") == ["intel-iommu"]
    assert link_name(tree, f"{PCI}/{DSA}/driver") == "idxd"
    assert tree.link(f"{PCI}/{DSA}") == f"../../../devices/pci0000:6a/{DSA}"
    assert tree.link(f"{PCI}/{DSA}/vendor") is None


@pytest.mark.parametrize("target", ["../secret", "../../secret", "/../secret", "../host/../secret"])
def test_a_link_out_of_the_tree_leads_nowhere(host: Path, target: str) -> None:
    write(host.parent, "secret", "secret")
    link(host, "leak", target)
    link(host, "folder", "..")
    tree = HostTree(host)
    assert tree.read("leak") is None
    assert tree.read("folder/secret") is None
    assert tree.names("folder") == []
    assert tree.read("../secret") is None
    assert tree.link("leak") == target


def test_an_absolute_link_starts_at_the_tree_s_root(host: Path) -> None:
    link(host, "absolute", "/proc/version")
    assert (read_text(HostTree(host), "absolute") or "").startswith("Linux version")


def test_links_in_a_loop_lead_nowhere(host: Path) -> None:
    link(host, "one", "two")
    link(host, "two", "one")
    link(host, "deep", "deep/deep")
    tree = HostTree(host)
    assert tree.read("one") is None
    assert tree.names("deep/x") == []
    assert tree.link("one") == "two"


def test_what_lies_too_deep_is_not_there(host: Path) -> None:
    tree = HostTree(host)
    assert tree.read("a/" * 2000 + "b") is None
    assert tree.link("a/" * 2000 + "b") is None
    assert tree.names("a/" * 2000 + "b") == []


def test_what_is_no_regular_file_is_not_read(host: Path) -> None:
    os.mkfifo(host / "pipe")
    tree = HostTree(host)
    assert tree.read("pipe") is None
    assert tree.read("sys") is None
    assert tree.read("nothing") is None


def test_a_file_that_is_too_large_says_so(host: Path) -> None:
    tree = HostTree(host)
    assert tree.get("proc/version", 1 << 10)
    with pytest.raises(OSError, match="larger than 4 bytes"):
        tree.get("proc/version", 4)


def test_a_name_that_cannot_be_written_down_is_passed_over(host: Path) -> None:
    (host / "sys" / "bad\nname").touch()
    Path(os.fsdecode(os.fsencode(host / "sys") + b"/\xff")).touch()
    assert HostTree(host).names("sys") == ["bus", "class", "devices", "firmware", "kernel"]


@given(st.lists(st.sampled_from(["a", "b", "..", ".", "", "c"]), max_size=12), st.data())
def test_no_path_resolves_to_something_outside(parts: list[str], data: st.DataObject) -> None:
    targets = st.sampled_from(["..", "../..", "/", "a", "b/..", "../c", "/../a", "a/a", "."])
    links = data.draw(st.dictionaries(st.sampled_from(["a", "b", "a/b", "b/a", "c/a"]), targets, max_size=5))
    found = resolve("/".join(parts), links.get)
    assert found is None or not {"..", ".", ""} & set(found.split("/")) - {""}
    assert found is None or found not in links


def test_the_kernel_s_log_is_read_only_from_a_device(tmp_path: Path) -> None:
    assert read_kmsg(write(tmp_path, "kmsg", "6,1,1,-;text")) is None
    assert read_kmsg(tmp_path / "nothing") is None


def test_records_of_the_kernel_s_log_become_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [b"6,1,12345678,-;DMAR: dmar0: on\n SUBSYSTEM=pci\n", b"30,2,5,-;a\\x09b\n", b"no record\n"]
    monkeypatch.setattr(os, "read", lambda handle, size: records.pop(0) if records else b"")
    assert read_kmsg("/dev/null") == "[   12.345678] DMAR: dmar0: on\n[    0.000005] a b\nno record\n"


# Archives


def archive_of(path: Path, add: Callable[[tarfile.TarFile], None], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:
        add(tar)
    return path


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, len(data)
    return info


def packed(path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz") -> Path:
    def add(tar: tarfile.TarFile) -> None:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))

    return archive_of(path, add, mode)


@pytest.mark.parametrize(("name", "mode"), [("x.tar.gz", "w:gz"), ("x.tgz", "w:gz"), ("x.tar", "w")])
@pytest.mark.parametrize("top", ["", "copy"])
def test_an_archive_of_a_host_reads_as_the_host(host: Path, tmp_path: Path, name: str, mode: str, top: str) -> None:
    path = archive_of(tmp_path / name, lambda tar: tar.add(host, top or "."), mode)
    tree, live = open_tree(path), HostTree(host)
    assert isinstance(tree, ArchiveTree)
    assert tree.findings == []
    for file in (f"{PCI}/{DSA}/config", "proc/cmdline", "sys/class/iommu/dmar0/intel-iommu/ecap"):
        assert tree.read(file) == live.read(file) is not None
    assert tree.names(PCI) == live.names(PCI)
    assert tree.names(f"{PCI}/{DSA}") == live.names(f"{PCI}/{DSA}")
    assert tree.link(f"{PCI}/{DSA}/driver") == live.link(f"{PCI}/{DSA}/driver") is not None


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "sys/../../evil"])
def test_a_name_that_leads_out_of_the_archive_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"x\.tar\.gz: member '.*' leads out of the archive"):
        ArchiveTree(packed(tmp_path / "x.tar.gz", (member(name), b"")))


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_and_pipes_in_an_archive_are_refused(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(InputError, match="member 'dev/x' is no file, directory or link"):
        ArchiveTree(packed(tmp_path / "x.tar.gz", (member("dev/x", kind=kind), b"")))


def test_links_of_an_archive_stay_text(tmp_path: Path) -> None:
    out = member("sys/out", kind=tarfile.SYMTYPE, target="../../../etc/passwd")
    same = member("sys/same", kind=tarfile.LNKTYPE, target="sys/file")
    tree = ArchiveTree(
        packed(tmp_path / "x.tar", (member("sys/file", b"text"), b"text"), (out, b""), (same, b""), mode="w")
    )
    assert tree.link("sys/out") == "../../../etc/passwd"
    assert tree.read("sys/out") is None
    assert tree.read("sys/same") == b"text"


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST_TOTAL", 1 << 20)
    zeros = bytes(2 << 20)
    path = packed(tmp_path / "x.tar.gz", (member("sys/zeros", zeros), zeros))
    assert path.stat().st_size < 4096
    with pytest.raises(InputError, match="unpacks to more than 1 MiB"):
        ArchiveTree(path)


def test_an_extended_header_that_claims_much_is_bounded(tmp_path: Path) -> None:
    head = member("header", kind=tarfile.XHDTYPE)
    head.size = 1 << 40
    path = tmp_path / "x.tar"
    path.write_bytes(head.tobuf(tarfile.GNU_FORMAT) + bytes(10 << 10))
    with pytest.raises(InputError, match="no tar archive that can be read"):
        ArchiveTree(path)


def test_a_large_file_of_an_archive_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST_BYTES", 3)
    members = (member("sys/large", b"text"), b"text"), (member("sys/small", b"abc"), b"abc")
    tree = ArchiveTree(packed(tmp_path / "x.tar.gz", *members))
    assert [finding.rule.id for finding in tree.findings] == ["capture.large-file"]
    assert tree.read("sys/small") == b"abc"


def test_too_many_members_and_too_long_names_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST_MEMBERS", 2)
    path = packed(tmp_path / "x.tar.gz", *((member(f"sys/{number}"), b"") for number in range(3)))
    with pytest.raises(InputError, match="more than 2 members"):
        ArchiveTree(path)
    path = packed(tmp_path / "y.tar.gz", (member("sys/" + "x" * 2000), b""))
    with pytest.raises(InputError, match="a name longer than 1024 characters"):
        ArchiveTree(path)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_archive_that_is_cut_is_read_as_far_as_it_goes(tmp_path: Path, mode: str) -> None:
    noise = os.urandom(40 << 10)
    path = packed(tmp_path / "x.tar", (member("sys/a", b"text"), b"text"), (member("sys/b", noise), noise), mode=mode)
    path.write_bytes(path.read_bytes()[: 20 << 10])
    tree = ArchiveTree(path)
    assert tree.read("sys/a") == b"text"
    assert tree.read("sys/b") is None
    (finding,) = tree.findings
    assert finding.rule.id == "capture.archive-cut"
    assert finding.why.startswith(f"{path}: ")


@pytest.mark.parametrize("content", [b"", b"text", gzip.compress(b"text"), b"\x1f\x8b\x08" + b"x" * 600])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.tar.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.tar\.gz: no tar archive that can be read"):
        ArchiveTree(path)


def names_or_refusal(path: Path) -> list[str] | str:
    try:
        return ArchiveTree(path).names("")
    except InputError as error:
        return str(error)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_an_archive_with_any_bytes_changed_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    members = [(member("sys/a", b"text"), b"text"), (member("sys/l", kind=tarfile.SYMTYPE, target="a"), b"")]
    path = packed(tmp_path / "x.tar", *members, mode="w")
    content = bytearray(path.read_bytes()[:2048])
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    found = names_or_refusal(path)
    assert str(path) in found if isinstance(found, str) else all(map(is_plain, found))


# Captures and their manifests


def manifest_of(folder: Path, files: dict[str, bytes], **changes: object) -> Manifest:
    entries = [FileEntry.of(path, data) for path, data in files.items()]
    manifest = Manifest(FORMAT, "pasidlab", "6.12.30", "x86_64", entries, {"sys/x/driver": "../drivers/idxd"})
    for path, data in files.items():
        write(folder, path, data)
    write(folder, "manifest.json", manifest.to_json())
    return manifest


def test_a_capture_has_what_its_manifest_names(tmp_path: Path) -> None:
    manifest_of(tmp_path, {"sys/x/vendor": b"0x8086"})
    write(tmp_path, "sys/x/other", "not captured")
    tree = open_tree(tmp_path)
    assert isinstance(tree, CaptureTree)
    assert tree.names("sys/x") == ["driver", "vendor"]
    assert tree.read("sys/x/vendor") == b"0x8086"
    assert tree.read("sys/x/other") is None
    assert link_name(tree, "sys/x/driver") == "idxd"
    assert tree.findings == []


def test_a_file_that_was_changed_or_is_gone_is_a_finding_once_it_is_read(tmp_path: Path) -> None:
    manifest_of(tmp_path, {"a": b"1", "b": b"2", "c": b"3"})
    write(tmp_path, "a", b"22")
    (tmp_path / "b").unlink()
    tree = CaptureTree(tmp_path)
    assert tree.findings == []
    assert (tree.read("a"), tree.read("b"), tree.read("c"), tree.read("a")) == (b"22", None, b"3", b"22")
    assert [finding.rule.id for finding in tree.findings] == ["capture.changed", "capture.gone"]
    assert tree.findings[0].why.startswith("a: 2 bytes of SHA-256 ")
    assert tree.findings[1].why == "b: the manifest names it, and it is not there"


def test_a_capture_s_file_that_is_a_link_out_of_it_is_not_read(tmp_path: Path) -> None:
    manifest_of(tmp_path / "capture", {"a": b"1"})
    (tmp_path / "capture" / "a").unlink()
    write(tmp_path, "secret", b"1")
    link(tmp_path / "capture", "a", "../secret")
    assert CaptureTree(tmp_path / "capture").read("a") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "not JSON"),
        (b"[]", "must be an object with the keys format, tool"),
        (b'{"format": 2}', "format = 2: allowed is 1"),
        (b'{"format": 1}', "tool: missing"),
        (
            b'{"format":1,"tool":"","release":"","machine":"","files":[{"path":"a"}],"links":{}}',
            r"files\[0\].size: missing",
        ),
        (
            b'{"format":1,"tool":"","release":"","machine":"","files":[{"path":"a","size":1,"sha256":"x"}],"links":{}}',
            r"files\[0\].sha256 = 'x': expected 64 hexadecimal digits",
        ),
        (
            b'{"format":1,"tool":"","release":"","machine":"","files":[],"links":{"../a":"b"}}',
            r"path '\.\./a': must be",
        ),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_manifest_that_is_wrong_says_where(text: bytes, message: str) -> None:
    with pytest.raises(InputError, match=f"^manifest.json: .*{message}"):
        read_manifest(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*KEYS, "path", "x"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(KEYS), json_values) | st.binary(max_size=20))
def test_any_manifest_is_read_or_refused(content: dict[str, object] | bytes) -> None:
    data = content if isinstance(content, bytes) else json.dumps({"format": FORMAT, **content}).encode()
    try:
        found = read_manifest(data).format
    except InputError as error:
        found = str(error).startswith("manifest.json: ")
    assert found in (FORMAT, True)


def test_what_is_no_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file or directory"):
        open_tree(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(InputError, match=r"must be a directory of a host"):
        open_tree(tmp_path / "pipe.tar")
    with pytest.raises(InputError, match=r"must be a directory of a host, a capture, or an archive \(\.tar\.gz"):
        open_tree(write(tmp_path, "x.dat", "text"))
