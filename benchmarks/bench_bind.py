"""Binds and unbinds under each scheme: how many a second, and whether one takes longer when many bonds are live.

Everything goes through the kernel's entry points, on kernel v7.3 with the mock IOMMU driver and no observer. `v2` and
`hybrid` bind under the driver's numbers, `mainline` and `rfc` under the core's. Ratios are medians over rounds; growth
is the time at the most live bonds divided by that at the fewest.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from random import Random
from statistics import median
from time import process_time
from typing import NamedTuple

from benchmarks.rows import Row, cpu_seconds
from pasidlab.drivers.mock import MockDriver
from pasidlab.linux.iommu import iommu_probe_device
from pasidlab.linux.kernel import Kernel
from pasidlab.linux.mm import MmStruct, mmput
from pasidlab.linux.profiles import V7_3
from pasidlab.linux.structs import Device, IommuGroup
from pasidlab.linux.sva import IommuSva, iommu_sva_bind_device, iommu_sva_bind_device_pasid, iommu_sva_unbind_device
from pasidlab.rules import Refusal
from pasidlab.schemes import SCHEMES

PASID_BITS = 20
DEVICES, MMS = 1_000, 10_000
UNBIND_ORDER = Random(1).sample(range(MMS), MMS)
LIVE_COUNTS = (10, 1_000, 100_000)
ROUNDS = 9
PROBES = 100
FILL_SECONDS = 4.0
ROUND_SECONDS = 0.05
MIN_PAIRS = (">=", 50_000.0)
MAX_GROWTH = ("<=", 2.0)


def rows() -> Iterator[Row]:
    for scheme in SCHEMES:
        yield from _pair_rows(scheme)
    for scheme in SCHEMES:
        yield from _growth_rows(Case(scheme, "one device", 1))
        yield from _growth_rows(Case(scheme, f"{DEVICES:,} devices", DEVICES))
    yield from _growth_rows(Case("hybrid", "core's number beside driver's", 1, core_probes=True))


# --- one machine -------------------------------------------------------------------------------------------------

Bind = Callable[[Device, MmStruct, int], IommuSva]


class Rig:
    """A kernel with one IOMMU and wide devices, each in a group of its own."""

    def __init__(self, scheme: str, devices: int) -> None:
        self.kernel = Kernel(SCHEMES[scheme](), V7_3)
        self.bind: Bind = _bind_driver if scheme in ("v2", "hybrid") else _bind_core
        self.live = 0
        driver = MockDriver(self.kernel)
        iommu = driver.instance("iommu", 1 << PASID_BITS)
        self.devices = [Device(self.kernel, f"dev{n}", pasid_num_bits=PASID_BITS) for n in range(devices)]
        for dev in self.devices:
            iommu_probe_device(dev, iommu, IommuGroup(dev.name))
            driver.probe_device(dev)

    def new_mms(self, count: int) -> list[MmStruct]:
        """Start processes."""
        return [MmStruct(self.kernel, f"mm{n}") for n in range(count)]

    def fill(self, bonds: int, devices: int) -> None:
        """Bind as many new mms, to the first devices in turn, giving up when it takes too long."""
        end = process_time() + FILL_SECONDS
        for n, mm in enumerate(self.new_mms(bonds)):
            self.bind(self.devices[n % devices], mm, n + 1)
            self.live = n + 1
            if n % 1_000 == 0 and process_time() > end:
                return


def _bind_core(dev: Device, mm: MmStruct, number: int) -> IommuSva:
    return _bound(iommu_sva_bind_device(dev, mm))


def _bind_driver(dev: Device, mm: MmStruct, number: int) -> IommuSva:
    return _bound(iommu_sva_bind_device_pasid(dev, mm, number))


def _bound(bond: IommuSva | Refusal) -> IommuSva:
    if isinstance(bond, Refusal):
        raise ValueError(f"refused: {bond.why}")
    return bond


# --- pairs a second ------------------------------------------------------------------------------------------------


def _pair_rows(scheme: str) -> Iterator[Row]:
    rig = Rig(scheme, DEVICES)
    mms = rig.new_mms(MMS)
    target = MIN_PAIRS if scheme == "mainline" else None
    works = {"one bond live": _pairs_one_by_one, f"up to {MMS:,} live": _pairs_all_live}
    for how, pairs in works.items():
        gc.collect()
        times = [(cpu_seconds(lambda: pairs(rig, mms)), cpu_seconds(_dict_pairs)) for _ in range(ROUNDS)]  # noqa: B023
        name = f"bind+unbind, {scheme}, {how}"
        yield Row(name, MMS / median(seconds for seconds, _ in times), "pairs/s", target)
        yield Row(f"{name} / dict insert+delete", median(seconds / base for seconds, base in times), "x")


def _pairs_one_by_one(rig: Rig, mms: list[MmStruct]) -> None:
    bind, devices = rig.bind, rig.devices
    for n, mm in enumerate(mms):
        iommu_sva_unbind_device(bind(devices[n % DEVICES], mm, n + 1))


def _pairs_all_live(rig: Rig, mms: list[MmStruct]) -> None:
    bind, devices = rig.bind, rig.devices
    bonds = [bind(devices[n % DEVICES], mm, n + 1) for n, mm in enumerate(mms)]
    for n in UNBIND_ORDER:
        iommu_sva_unbind_device(bonds[n])


def _dict_pairs() -> None:
    numbers: dict[int, int] = {}
    for n in range(MMS):
        numbers[n] = n
        del numbers[n]


# --- growth --------------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """Where the live bonds are; with `core_probes`, binds with the core's number are timed beside driver's numbers."""

    scheme: str
    layout: str
    devices: int
    core_probes: bool = False


class Times(NamedTuple):
    """Microseconds of one call."""

    bind: float
    unbind: float


def _growth_rows(case: Case) -> Iterator[Row]:
    """Binds and unbinds of fresh mms beside live bonds, the rigs with few and many taking turns."""
    rigs = [_filled_rig(case, count) for count in LIVE_COUNTS]
    gc.collect()
    rounds = [[_time_probes(case, rig) for rig in rigs] for _ in range(ROUNDS)]
    title = f"{case.scheme}, {case.layout}"
    for index, rig in enumerate(rigs):
        yield Row(f"bind, {title}, {rig.live:,} live", median(times[index].bind for times in rounds), "us")
    if rigs[-1].live < LIVE_COUNTS[-1]:
        yield Row(f"{title}, live in {FILL_SECONDS:g} s", rigs[-1].live, "bonds", (">=", LIVE_COUNTS[-1]))
    yield Row(f"bind, {title}, growth", median(times[-1].bind / times[0].bind for times in rounds), "x", MAX_GROWTH)
    if not case.core_probes:
        growth = median(times[-1].unbind / times[0].unbind for times in rounds)
        yield Row(f"unbind, {title}, growth", growth, "x", MAX_GROWTH)


def _filled_rig(case: Case, bonds: int) -> Rig:
    """Fill the case's devices; among many, the probes get devices that have no bond yet."""
    rig = Rig(case.scheme, case.devices if case.devices == 1 else case.devices + PROBES)
    rig.fill(bonds, case.devices)
    if case.core_probes:
        rig.bind = _bind_core
    return rig


def _time_probes(case: Case, rig: Rig) -> Times:
    """Bind fresh mms, as many as fit the time of a round, and unbind them again."""
    devices = rig.devices[-PROBES:]
    mms = rig.new_mms(PROBES)
    bonds: list[IommuSva] = []
    start = process_time()
    for n, mm in enumerate(mms):
        bonds.append(rig.bind(devices[n % len(devices)], mm, rig.live + n + 1))
        if n % 10 == 0 and process_time() - start > ROUND_SECONDS:
            break
    bound = process_time()
    for bond in bonds:
        iommu_sva_unbind_device(bond)
    unbound = process_time()
    for mm in mms:
        mmput(mm)
    return Times((bound - start) / len(bonds) * 1e6, (unbound - bound) / len(bonds) * 1e6)
