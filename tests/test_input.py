"""Every mistake in a scenario file is named: file, key, value, and what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pasidlab.decode import MAX_BYTES
from pasidlab.errors import InputError
from pasidlab.runner import machine_at
from pasidlab.scenario import Scenario

MACHINE = """
[[iommu]]
name = "smmu0"
[[device]]
name = "npu0"
iommu = "smmu0"
pasid_bits = 2
[[process]]
name = "a"
"""
SMMU = '[[iommu]]\nname = "s"\nmodel = "arm-smmu-v3"\nsid_bits = 4\n'
SHOW = '\n[[step]]\ndo = "show"\n'


def step(text: str) -> str:
    return f"{MACHINE}\n[[step]]\n{text}\n"


MISTAKES = {
    "unknown key at the top": (f"colour = 1\n{SHOW}", r"colour = 1: unknown key; allowed: kernel, switches, config"),
    "unknown key of a device": (
        '[[device]]\nname = "d"\nwidth = 3\n' + SHOW,
        r"device\[0\]\.width = 3: unknown key; allowed: name, iommu, kind",
    ),
    "unknown key of a step": (
        step('do = "exit"\nprocess = "a"\nwhy = "x"'),
        r"step\[0\]\.why = 'x': unknown key; allowed: do, process, expect",
    ),
    "missing name": ("[[device]]\npasid_bits = 3\n" + SHOW, r"device\[0\]\.name: missing; device\[0\] has the keys"),
    "missing key of a step": (step('do = "bind"\ndevice = "npu0"'), r"step\[0\]\.process: missing"),
    "missing verb": (step('device = "npu0"'), r"step\[0\]\.do: missing; allowed: bind, bind_device"),
    "unknown verb": (step('do = "bnid"'), r"step\[0\]\.do = 'bnid': .*allowed: bind, bind_device"),
    "wrong type": ('[[iommu]]\nname = "s"\npasid_bits = "2"\n' + SHOW, r"iommu\[0\]\.pasid_bits = '2': expected `int`"),
    "out of range": ('[[iommu]]\nname = "s"\npasid_bits = 21\n' + SHOW, r"pasid_bits = 21: expected `int` <= 20"),
    "not of the choices": (
        '[[device]]\nname = "d"\nkind = "nvme"\n' + SHOW,
        r"device\[0\]\.kind = 'nvme': .*allowed: dsa, iaa, narrow, pcie",
    ),
    "model that comes later": (
        '[[iommu]]\nname = "s"\nmodel = "amd-vi"\n' + SHOW,
        r"iommu\[0\]\.model = 'amd-vi': .*allowed: arm-smmu-v3, intel-vtd, mock",
    ),
    "smmu key of a mock": (
        '[[iommu]]\nname = "s"\nssid_bits = 4\n' + SHOW,
        r"iommu\[0\]\.ssid_bits = 4: only an IOMMU of model arm-smmu-v3 has it",
    ),
    "acting smmu": (
        '[[iommu]]\nname = "s"\nmodel = "arm-smmu-v3"\nops = "amd-vi"\n' + SHOW,
        r"iommu\[0\]\.ops = 'amd-vi': only a mock acts like other drivers",
    ),
    "pri without ats": (
        '[[iommu]]\nname = "s"\nmodel = "arm-smmu-v3"\npri = true\n' + SHOW,
        r"iommu\[0\]\.pri = True: needs ats = true",
    ),
    "stream of a mock's device": (
        '[[device]]\nname = "d"\nstream_id = 4\n' + SHOW,
        r"device\[0\]\.stream_id = 4: only a device behind an arm-smmu-v3 has it",
    ),
    "stream too large": (
        SMMU + '[[device]]\nname = "d"\niommu = "s"\nstream_id = 16\n' + SHOW,
        r"device\[0\]\.stream_id: StreamID 16 does not fit the SMMU's sid_bits = 4; allowed: 0 to 15",
    ),
    "stream twice": (
        SMMU
        + '[[device]]\nname = "d"\niommu = "s"\nstream_id = 5\n[[device]]\nname = "e"\niommu = "s"\nstream_id = 5\n'
        + SHOW,
        r"device\[1\]\.stream_id: StreamID 5 is another device's",
    ),
    "stream twice on one device": (
        SMMU + '[[device]]\nname = "d"\niommu = "s"\nstream_id = [5, 5]\n' + SHOW,
        r"device\[0\]\.stream_id: StreamID 5 is listed twice",
    ),
    "no stream left": (
        '[[iommu]]\nname = "s"\nmodel = "arm-smmu-v3"\nsid_bits = 0\n[[device]]\nname = "d"\niommu = "s"\n' + SHOW,
        r"device\[0\]\.stream_id: missing, and none from 1 on is free where sid_bits = 0",
    ),
    "ats of a platform device": (
        SMMU + '[[device]]\nname = "d"\niommu = "s"\nkind = "narrow"\nats = true\n' + SHOW,
        r"device\[0\]\.ats = True: only a PCIe device, of a kind other than narrow, has it",
    ),
    "wrong type of a key that may be left out": (
        '[[iommu]]\nname = "s"\nmodel = "arm-smmu-v3"\nstall = 3\n' + SHOW,
        r"iommu\[0\]\.stall = 3: expected `bool`, got `int`$",
    ),
    "number that no device can send": (
        step('do = "dma"\ndevice = "npu0"\npasid = 0x100000'),
        r"step\[0\]\.pasid = 1048576: expected `int` <= 1048575",
    ),
    "request for a number that no device can send": (
        step('do = "page_request"\ndevice = "npu0"\npasid = 0x100000'),
        r"step\[0\]\.pasid = 1048576: expected `int` <= 1048575",
    ),
    "source that is none": (
        '[[iommu]]\nname = "v"\nmodel = "intel-vtd"\n[[device]]\nname = "d"\niommu = "v"\nsource_id = "6a:32.0"\n'
        + SHOW,
        r"device\[0\]\.source_id = '6a:32\.0': expected bus:device\.function, as 6a:01\.0; "
        r"device 00 to 1f, function 0 to 7$",
    ),
    "rights that are none": (
        step('do = "page_request"\ndevice = "npu0"\nperm = "rz"'),
        r"step\[0\]\.perm = 'rz': expected any of the letters r, w, x and p, or none$",
    ),
    "number in the place of text": (
        step('do = "page_request"\ndevice = "npu0"\nperm = 1'),
        r"step\[0\]\.perm = 1: expected text, got `int`$",
    ),
    "no stream": (
        SMMU + '[[device]]\nname = "d"\niommu = "s"\nstream_id = []\n' + SHOW,
        r"device\[0\]\.stream_id = \[\]: a device has one StreamID at least",
    ),
    "default domain of the second": (
        SMMU
        + '[[device]]\nname = "d"\niommu = "s"\ngroup = "g"\n'
        + '[[device]]\nname = "e"\niommu = "s"\ngroup = "g"\ndefault_domain = "identity"\n'
        + SHOW,
        r"device\[1\]\.default_domain: the first device of group 'g' says it",
    ),
    "option": (
        '[options]\nguard = "wall"\n' + SHOW,
        r"options\.guard = 'wall': .*allowed: declared, mmap, none, range",
    ),
    "expectation of another type": (step('do = "exit"\nprocess = "a"\nexpect = 3'), r"step\[0\]\.expect = 3: expected"),
    "impossible expectation": (
        step('do = "exit"\nprocess = "a"\nexpect = "EFOO"'),
        r"step\[0\]\.expect = 'EFOO': no such result; allowed: ok, fault, EPERM",
    ),
    "impossible errno": (
        step('do = "fail_next"\ndevice = "npu0"\ncall = "memory"\nerrno = "EFOO"'),
        r"step\[0\]\.errno = 'EFOO': no such errno; allowed: EPERM",
    ),
    "dangling iommu": (
        '[[device]]\nname = "d"\niommu = "x"\n' + SHOW,
        r"device\[0\]\.iommu = 'x': no such name; known: none",
    ),
    "dangling device": (
        step('do = "alloc_global"\ndevice = "gpu"'),
        r"step\[0\]\.device = 'gpu': no such device; known here: npu0",
    ),
    "dangling process": (
        step('do = "exit"\nprocess = "z"'),
        r"step\[0\]\.process = 'z': no such process; known here: a",
    ),
    "dangling handle": (
        step('do = "unbind"\nhandle = "h"'),
        r"step\[0\]\.handle = 'h': no such handle; known here: none",
    ),
    "dangling number": (step('do = "free_global"\npasid = "n"'), r"step\[0\]\.pasid = 'n': no such number"),
    "dangling device of a hand-off": (
        step('do = "handoff"\nfrom = "x"\nto = "npu0"\nprocess = "a"'),
        r"step\[0\]\.from = 'x': no such device",
    ),
    "name twice": (
        '[[process]]\nname = "a"\n[[process]]\nname = "a"\n' + SHOW,
        r"process\[1\]\.name = 'a': another process has this name",
    ),
    "child's name twice": (
        step('do = "fork"\nprocess = "a"\nas = "a"'),
        r"step\[0\]\.as = 'a': another process has this name",
    ),
    "unknown kernel": (f'kernel = "v5.4"\n{SHOW}', r"kernel 'v5.4': no such profile; known: v6.12.0, v6.12"),
    "unknown switch": (f"[switches]\nturbo = true\n{SHOW}", r"switches\.turbo: no such switch; known: x86_sva_refused"),
    "wrong switch": (
        f"[switches]\nreset_fence = true\n{SHOW}",
        r"switches\.reset_fence = True: must be one of none, flat",
    ),
    "reserved name": ('[[process]]\nname = "kernel"\n' + SHOW, r"process\[0\]\.name = 'kernel': stands for something"),
    "reserved child": (step('do = "fork"\nprocess = "a"\nas = "nobody"'), r"step\[0\]\.as = 'nobody': stands for"),
    "control character": (
        '[[process]]\nname = "a\\nb"\n' + SHOW,
        r"process\[0\]\.name = .*: expected text without control",
    ),
    "address too large": (step('do = "page_request"\ndevice = "npu0"\naddress = 99999999999999999999'), r"address = "),
    "number too long": ("a = " + "9" * 5000, r"not TOML that can be read: Exceeds the limit"),
    "queue of another kind": (
        '[[device]]\nname = "d"\nqueue = "shared"\n' + SHOW,
        r"device\[0\]\.queue: only a device of kind dsa or iaa has it, not pcie",
    ),
    "virtual function first": (
        '[[device]]\nname = "d"\nphysfn = "e"\n[[device]]\nname = "e"\n' + SHOW,
        r"device\[0\]\.physfn = 'e': must name a device that is described before",
    ),
    "errno of a failing allocation": (
        step('do = "fail_next"\ndevice = "npu0"\ncall = "memory"\nerrno = "EIO"'),
        r"step\[0\]\.errno = 'EIO': a failing allocation is ENOMEM",
    ),
    "steps are no list": ("step = 3", r"step = 3: expected `array`"),
    "a step is no table": ("step = [3]", r"step\[0\] = 3: expected `object`"),
    "not TOML": ("[[step", r"not TOML: "),
    "cut off": ('title = "A 2-bit', r"not TOML: "),
    "nested too deeply": ("a = " + "[" * 20_000, r"not TOML"),
    "empty": ("", r"the file is empty"),
    "blank": ("\n\n  \n", r"the file is empty"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named(scenario_file: Callable[[str], Path], mistake: str) -> None:
    text, message = MISTAKES[mistake]
    path = scenario_file(text)
    with pytest.raises(InputError, match=message) as raised:
        Scenario.load(path)
    assert str(raised.value).startswith(f"{path}: ")


def test_the_correct_sibling_of_the_mistakes_loads(scenario_file: Callable[[str], Path]) -> None:
    scenario = Scenario.load(scenario_file(step('do = "bind"\ndevice = "npu0"\nprocess = "a"\nexpect = "ok"')))
    assert [one.verb for one in scenario.step] == ["bind"]


def test_a_binary_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b"\x00\xff\xfe" * 100)
    with pytest.raises(InputError, match=r"x\.toml: not a text file: byte 1 is not UTF-8"):
        Scenario.load(path)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    with path.open("wb") as stream:
        stream.truncate(MAX_BYTES + 1)
    with pytest.raises(InputError, match="larger than 32 MiB, the most that is read"):
        Scenario.load(path)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda p: p.symlink_to(p), "Too many levels of symbolic links"),
        (lambda p: p.mkdir(), "Is a directory"),
        (lambda p: None, "No such file or directory"),
    ],
    ids=["cyclic link", "directory", "missing"],
)
def test_a_path_that_is_no_file_is_named(tmp_path: Path, make, reason: str) -> None:
    path = tmp_path / "x.toml"
    make(path)
    with pytest.raises(InputError, match=f"x.toml: cannot be read: {reason}"):
        Scenario.load(path)


@pytest.mark.parametrize("size", ["4K", 4096, "16K", 16384, "64K", 65536])
def test_a_page_size_is_given_in_bytes_or_as_kernels_call_it(size: str | int, tmp_path: Path) -> None:
    written = f'"{size}"' if isinstance(size, str) else size
    path = tmp_path / "sizes.toml"
    path.write_text(f'[cpu]\narch = "arm64"\npage_size = {written}\n{SMMU}granule = {written}\n{SHOW}')
    scenario = Scenario.load(path)
    machine = machine_at(scenario)
    assert machine.kernel.page_size == {"4K": 4096, "16K": 16384, "64K": 65536}.get(str(size), size)
