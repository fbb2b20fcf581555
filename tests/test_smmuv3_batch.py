"""Batches, held against one translation after the other, on machines whose memory is mostly tables and partly noise."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest

from pasidlab.hw.batch.ahead import CACHED_WORDS
from pasidlab.hw.pagetable import vmsa
from pasidlab.hw.smmuv3 import lookup, translate
from pasidlab.hw.smmuv3.batch import Batch, BatchTranslator, Status
from pasidlab.hw.smmuv3.batch_tables import NUMBERING
from pasidlab.hw.smmuv3.features import GRANULES, Features, StallModel
from pasidlab.hw.smmuv3.legality import cd_fault, ste_fault
from pasidlab.hw.smmuv3.records import EventCode
from pasidlab.hw.smmuv3.registers import REGISTERS, Cr0, Cr2, Gbpa, Offset, StrtabBase, StrtabBaseCfg
from pasidlab.hw.smmuv3.request import Completion, Request, Stalled, Terminated
from pasidlab.hw.smmuv3.smmu import Smmuv3
from pasidlab.hw.smmuv3.structures import Cd, Config, L1Cd, L1Std, Ste
from pasidlab.hw.smmuv3.target import ResumeAction
from pasidlab.hw.transaction import Operation, Translated
from pasidlab.memory import Memory
from pasidlab.rules import Rule
from pasidlab.words import Word

FRAME = 1 << 16
BASE = 0x4000_0000
FRAMES = [BASE + number * FRAME for number in range(12)]
"""Places of tables, each as large as the largest; all of them in one gibibyte."""
NOISE = FRAMES[:6]
STREAMS, CDS, LEAVES, IDENTITY_4K, IDENTITY_16K, IDENTITY_64K = FRAMES[6:]
IDENTITY = {0: (IDENTITY_4K, 28, 1), 1: (IDENTITY_64K, 28, 1), 2: (IDENTITY_16K, 28, 1)}
"""S2TTB, S2T0SZ and S2SL0, by S2TG, of stage 2 that puts out what it gets."""
BLOCK_LG2 = {IDENTITY_4K: 30, IDENTITY_16K: 25, IDENTITY_64K: 29}
BEHIND = FRAMES[-1] + FRAME
SIDS, SSIDS = 24, 80
MACHINES, REQUESTS = 300, 140


class Dice(random.Random):
    """Chances with names."""

    def chance(self, percent: float) -> bool:
        return self.random() * 100 < percent

    def word(self, bits: int = 64) -> int:
        return self.getrandbits(bits)

    def mutated(self, entry: Any, times: int) -> Any:
        """Set random fields to random values."""
        for _ in range(times):
            name = self.choice(list(entry.FIELDS))
            place = entry.FIELDS[name]
            entry = entry.replace(**{name: self.word(place.width) << place.shift})
        return entry


@dataclass
class Machine:
    """An SMMU without caches, whose memory goes back to what it was after every translation."""

    features: Features
    memory: Memory
    stored: dict[int, bytes] = field(default_factory=dict)
    updates: int = 0

    def __post_init__(self) -> None:
        self.smmu = Smmuv3(self.memory, self.features, cache_entries=0)

    def write(self, offset: Offset, value: Word) -> None:
        self.smmu.mmio_write(offset, value, REGISTERS[offset].SIZE // 8)

    def put(self, address: int, data: bytes) -> None:
        self.memory.store(address, data)
        self.stored[address] = data

    def single(self, request: Request) -> Translated | Terminated | Stalled:
        writes: list[int] = []
        self.memory.observers[:] = [lambda address, data: writes.append(address)]
        outcome = self.smmu.translate(request)
        self.memory.observers.clear()
        if isinstance(outcome, Stalled) and outcome.stag is not None:
            self.smmu.resume(request.sid, outcome.stag, ResumeAction.ABORT)
            self.smmu.answered(outcome)
        self.updates += len(writes)
        for address in writes:
            frame = max(start for start in self.stored if start <= address)
            self.memory.store(address, self.stored[frame][address - frame :][:8])
        assert isinstance(outcome, Translated | Terminated | Stalled)
        return outcome


# --- random machines -------------------------------------------------------------------------------------------------


def random_features(dice: Dice) -> Features:
    return Features(
        ssid_bits=dice.choice([0, 4, 20, 20, 20, 20]),
        sid_bits=dice.choice([4, 16, 16]),
        two_level_streams=dice.chance(90),
        two_level_cds=dice.chance(90),
        stage1=dice.chance(98),
        stage2=dice.chance(98),
        stall_model=dice.choice([StallModel.STALL_AND_TERMINATE, *StallModel][:4]),
        term_model=dice.chance(15),
        oas_bits=dice.choice([32, 40, 48, 48, 52, 52, 56]),
        vax=dice.choice([0, 1]),
        granules=dice.choice([GRANULES, GRANULES, GRANULES, frozenset({12}), frozenset({14, 16})]),
        ats=dice.chance(30),
        httu=dice.choice([0, 1, 2, 2]),
        asid16=dice.chance(80),
        vmid16=dice.chance(80),
        hyp=dice.chance(50),
        stt=dice.chance(30),
        attr_perms_ovr=dice.chance(50),
    )


def random_entry(dice: Dice) -> int:
    """An entry that is a table at most levels, a page at the last, mostly accessible and now and then anything."""
    if dice.chance(2):
        return dice.word()
    entry = dice.choice(NOISE) | 0x3 | dice.word(2) << 2 | 1 << 10
    for bit, percent in ((1, 25), (0, 4), (10, 8), (4, 20), (6, 60), (7, 45), (11, 50), (51, 40), (52, 20)):
        if dice.chance(percent):
            entry ^= 1 << bit
    for bits, percent in ((3 << 53, 20), (1 << 53, 20), (1 << 54, 20), (1 << 59, 5), (1 << 60, 5), (1 << 61, 5)):
        if dice.chance(percent):
            entry ^= bits
    if dice.chance(5):
        entry ^= 1 << 62
    return entry | (dice.word(16) << 32 & 0xFFFF_0000_0000 if dice.chance(2) else 0)


def noise(dice: Dice) -> bytes:
    some = np.array([random_entry(dice) for _ in range(256)], np.uint64)
    order = np.random.default_rng(dice.word(32)).integers(0, 256, FRAME // 8)
    return some[order].tobytes()


def identity(dice: Dice, lg2: int) -> bytes:
    """Blocks that are translated to themselves, with rights that are sometimes too few."""
    entries = [number << lg2 | 0x1 | 0xF << 2 | 3 << 6 | 1 << 10 for number in range(FRAME // 8)]
    place = BASE >> lg2
    for bits, percent in ((1 << 10, 15), (1 << 7, 15), (1 << 6, 5), (0x3C, 5), (1 << 51, 30), (1 << 54, 10), (1, 2)):
        if dice.chance(percent):
            entries[place] ^= bits
    return b"".join((entry & (1 << 64) - 1).to_bytes(8, "little") for entry in entries)


TRIES = 30


def random_ste(dice: Dice, features: Features) -> Ste:
    """An entry that is mostly legal, or nearly so."""
    if dice.chance(15):
        return dice.mutated(one_ste(dice, features), 1)
    tries = (one_ste(dice, features) for _ in range(TRIES))
    legal = next((ste for ste in tries if ste_fault(ste, features) is None), Ste(v=True))
    return dice.mutated(legal, dice.choice([0, 0, 0, 0, 0, 1, 2]))


def one_ste(dice: Dice, features: Features) -> Ste:
    tg = dice.choice([0, 1, 2])
    ttb, t0sz, sl0 = IDENTITY[tg] if dice.chance(75) else (dice.choice(NOISE), dice.choice([16, 25, 32]), dice.word(2))
    t0sz = max(t0sz, 64 - features.oas_bits)
    forced = features.stall_model is StallModel.STALL_FORCED
    may = features.stall_model is not StallModel.TERMINATE_ONLY
    return Ste(
        v=True,
        config=dice.choice([0, 4, 5, 5, 5, 6, 6, 7, 7, 7]),
        s1fmt=dice.choice([0, 1, 2]),
        s1contextptr=CDS,
        s1cdmax=dice.choice([0, 4, 6, 7, 7]),
        s1dss=dice.choice([0, 1, 2, 2, 3]),
        strw=dice.choice([0, 0, 0, 1, 2, 2]),
        privcfg=dice.word(2),
        instcfg=dice.word(2),
        s2ttb=ttb,
        s2t0sz=t0sz,
        s2sl0=sl0,
        s2tg=tg,
        s2ps=dice.choice([2, 5, 5, 6]),
        s2aa64=True,
        s2affd=dice.chance(30),
        s2ha=dice.chance(60 if features.httu else 10),
        s2hd=features.httu > 1 and dice.chance(60),
        s2ptw=dice.chance(20),
        s2s=(forced or (may and dice.chance(30))) != dice.chance(4),
        s2r=dice.chance(70),
        s2vmid=dice.word(dice.choice([8, 8, 16])),
        eats=dice.choice([0, 0, 0, 1, 2]),
        s1stalld=features.stall_model is StallModel.STALL_AND_TERMINATE and dice.chance(15),
    )


def random_cd(dice: Dice, features: Features) -> Cd:
    """A CD that is mostly legal, or nearly so."""
    tries = (one_cd(dice, features) for _ in range(TRIES))
    legal = next((cd for cd in tries if cd_fault(cd, Ste(), features) is None), Cd())
    return dice.mutated(legal, dice.choice([0, 0, 0, 0, 0, 1, 2]))


def one_cd(dice: Dice, features: Features) -> Cd:
    forced = features.stall_model is StallModel.STALL_FORCED
    may = features.stall_model is not StallModel.TERMINATE_ONLY
    return Cd(
        v=True,
        aa64=True,
        t0sz=dice.choice([16, 16, 25, 32]),
        t1sz=dice.choice([16, 16, 25, 32]),
        tg0=dice.choice([0, 0, 1, 2]),
        tg1=dice.choice([2, 2, 1, 3]),
        epd0=dice.chance(10),
        epd1=dice.chance(20),
        ips=dice.choice([2, 5, 5, 6]),
        affd=dice.chance(20),
        wxn=dice.chance(30),
        pan=dice.chance(30),
        tbi0=dice.chance(50),
        tbi1=dice.chance(50),
        ha=features.httu > 0 and dice.chance(50),
        hd=features.httu > 1 and dice.chance(50),
        s=forced or (may and dice.chance(30)),
        r=dice.chance(70),
        a=features.term_model or dice.chance(60),
        asid=dice.word(8),
        ttb0=dice.choice(NOISE),
        ttb1=dice.choice(NOISE),
    )


def random_machine(seed: int) -> Machine:
    dice = Dice(seed)
    machine = Machine(random_features(dice), Memory(dice.choice([36, 48, 52, 52])))
    for frame in NOISE:
        machine.put(frame, noise(dice))
    for frame, lg2 in BLOCK_LG2.items():
        machine.put(frame, identity(dice, lg2))
    put_streams(machine, dice)
    put_contexts(machine, dice)
    if seed % 20 == 0:
        machine.memory.store(BEHIND, bytes(8 * CACHED_WORDS))  # more than the caches hold, so that batches read ahead
    for frame in FRAMES:
        if dice.chance(4):
            machine.memory.poison(frame + dice.choice([0, dice.word(16)]), dice.choice([1, 64, 4096, FRAME]))
    machine.write(Offset.CR2, Cr2(e2h=dice.chance(50), recinvsid=dice.chance(50)))
    machine.write(Offset.GBPA, Gbpa(update=True, abort=dice.chance(50)))
    machine.write(Offset.CR0, Cr0(smmuen=dice.chance(95)))
    return machine


def put_streams(machine: Machine, dice: Dice) -> None:
    """A linear stream table, or one of two levels whose second lies behind the first."""
    entries = [random_ste(dice, machine.features) for _ in range(SIDS)]
    first = b""
    if dice.chance(50):
        spans = (dice.choice([5, 7, 7, 7, 7, 7, 7, 8]), dice.choice([0, 7, 11, 12]), dice.word(5))
        ptr = STREAMS + 0x2000 if dice.chance(95) else 1 << 54
        first = b"".join(L1Std(span=span, l2ptr=ptr).pack() for span in spans)
    machine.put(STREAMS, first.ljust(0x2000, b"\0") + b"".join(entry.pack() for entry in entries).ljust(0xE000, b"\0"))
    base = STREAMS if first else STREAMS + 0x2000
    base = base if dice.chance(97) else 1 << 55
    machine.write(Offset.STRTAB_BASE, StrtabBase(addr=base))
    log2size = dice.choice([7, 8]) if first else dice.choice([4, 5, 5, 5, 6])
    machine.write(Offset.STRTAB_BASE_CFG, StrtabBaseCfg(fmt=bool(first), log2size=log2size, split=dice.choice([6, 0])))


def put_contexts(machine: Machine, dice: Dice) -> None:
    """A frame that is a linear CD table, and starts with level 1 descriptors when it is read as one of two levels."""
    entries = [random_cd(dice, machine.features) for _ in range(SSIDS)]
    leaves = [LEAVES, LEAVES, dice.choice([LEAVES, 1 << 50, 1 << 55])]
    level1 = b"".join(L1Cd(v=dice.chance(90), l2ptr=leaf).pack() for leaf in leaves)
    data = b"".join(entry.pack() for entry in entries)
    machine.put(LEAVES, data.ljust(FRAME, b"\0"))
    machine.put(CDS, (level1.ljust(64, b"\0") + data[64:]).ljust(FRAME, b"\0"))


def random_request(dice: Dice) -> Request:
    sid = dice.word(8) if dice.chance(5) else dice.randrange(SIDS)
    ssid = dice.choice([None, None, dice.randrange(16), dice.randrange(16), dice.randrange(SSIDS)])
    if dice.chance(8):
        ssid = dice.choice([0, 127, dice.word(20)])
    address = dice.word(dice.choice([30, 32, 39, 48]))
    if dice.chance(25):
        address = dice.choice(FRAMES) + dice.word(16)
    elif dice.chance(30):
        address = dice.choice([-1 - address, -1 - address, dice.word(64), address | dice.word(8) << 56])
    access = dice.choice([*Operation])
    flags = {"privileged": dice.chance(40), "instruction": dice.chance(30)}
    return Request(sid, ssid, address & (1 << 64) - 1, access, **flags)


# --- comparing -------------------------------------------------------------------------------------------------------


def batched(smmu: Smmuv3, requests: list[Request]) -> Batch:
    return BatchTranslator(smmu).translate(
        [request.sid for request in requests],
        [-1 if request.ssid is None else request.ssid for request in requests],
        np.array([request.address for request in requests], np.uint64),
        [request.access is Operation.WRITE for request in requests],
        privileged=[request.privileged for request in requests],
        instruction=[request.instruction for request in requests],
    )


def of_single(outcome: Translated | Terminated | Stalled) -> dict[str, Any]:
    """What a batch must say; without an entry where the outcome does not tell."""
    said: dict[str, Any] = dict.fromkeys(Batch._fields, 0) | {"rule": outcome.rule}
    if isinstance(outcome, Translated):
        return said | {"address": outcome.address, "lg2": outcome.lg2, "rights": int(outcome.rights)}
    event, fault = outcome.event, outcome.fault
    if fault is not None:
        said |= {"stage": fault.stage, "level": fault.level, "fault_address": fault.address}
    if event is None:
        del said["class_"]
    else:
        said |= {name: getattr(event, name) for name in ("class_",) if hasattr(event, name)}
        said |= {"event": event.code, "fetch_address": getattr(event, "fetchaddr", 0)}
    if isinstance(outcome, Stalled):
        return said | {"status": Status.STALLED}
    return said | {"status": Status.ABORTED if outcome.completion is Completion.ABORT else Status.RAZ_WI}


def of_batch(batch: Batch, number: int) -> dict[str, Any]:
    return {name: int(column[number]) for name, column in batch._asdict().items()} | {"rule": batch.rule_of(number)}


@dataclass
class Corpus:
    """What was compared, and how it ended."""

    differences: list[str] = field(default_factory=list)
    rules: set[Rule] = field(default_factory=set)
    events: set[int] = field(default_factory=set)
    statuses: set[int] = field(default_factory=set)
    updates: int = 0


@cache
def corpus() -> Corpus:
    found = Corpus()
    for seed in range(MACHINES):
        machine, dice = random_machine(seed), Dice(seed)
        requests = [random_request(dice) for _ in range(REQUESTS)]
        batch = batched(machine.smmu, requests)
        for number, request in enumerate(requests):
            single, many = of_single(machine.single(request)), of_batch(batch, number)
            if single != {name: many[name] for name in single}:
                found.differences.append(f"machine {seed}, {request}:\n{single}\n{many}")
            found.rules.add(many["rule"])
        found.events.update(batch.event)
        found.statuses.update(batch.status)
        found.updates += machine.updates
    return found


# --- tests -----------------------------------------------------------------------------------------------------------


def test_a_batch_says_what_single_translations_say() -> None:
    assert not corpus().differences, corpus().differences[0]


def test_the_random_machines_meet_every_rule_that_a_transaction_can_end_by() -> None:
    passed_on_the_way = {lookup.L1STD_READ, lookup.STE_READ, lookup.L1CD_READ, lookup.CD_READ}
    passed_on_the_way |= {vmsa.TABLE, vmsa.BLOCK, vmsa.PAGE, vmsa.MARKED_ACCESSED, vmsa.MARKED_DIRTY}
    refused_by_legality = {vmsa.TSZ, vmsa.START_LEVEL, vmsa.BASE_SIZE}
    expected = set(NUMBERING.rules) - passed_on_the_way - refused_by_legality - {translate.TLB_HIT}
    assert corpus().rules == expected


def test_the_random_machines_meet_every_event_and_status() -> None:
    codes = {code for code in EventCode if EventCode.C_BAD_STREAMID <= code <= EventCode.F_PERMISSION}
    elsewhere = {EventCode.F_BAD_ATS_TREQ, EventCode.F_TRANSL_FORBIDDEN}
    assert corpus().events == codes - elsewhere | {0}
    assert corpus().statuses == set(Status)


def test_the_random_machines_have_hardware_update_tables() -> None:
    assert corpus().updates > 50


@pytest.fixture
def machine() -> Machine:
    """A machine whose stream 0 is bypassed, and no other is valid."""
    made = Machine(Features(), Memory())
    made.put(STREAMS, Ste(v=True, config=Config.BYPASS).pack())
    made.write(Offset.STRTAB_BASE, StrtabBase(addr=STREAMS))
    made.write(Offset.STRTAB_BASE_CFG, StrtabBaseCfg(log2size=6))
    made.write(Offset.CR0, Cr0(smmuen=True))
    return made


def test_a_batch_changes_nothing(machine: Machine) -> None:
    stores: list[int] = []
    machine.memory.observers.append(lambda address, data: stores.append(address))
    before = machine.smmu.interface.eventq.prod
    BatchTranslator(machine.smmu).translate([0, 1, 99], -1, [0, 0, 0])
    assert (stores, machine.smmu.interface.eventq.prod, len(machine.smmu.stalls)) == ([], before, 0)


def test_registers_and_memory_are_read_anew_by_each_batch(machine: Machine) -> None:
    batches = BatchTranslator(machine.smmu)
    assert batches.translate([0, 1], -1, 5).status.tolist() == [Status.TRANSLATED, Status.ABORTED]
    machine.put(STREAMS + 64, Ste(v=True, config=Config.BYPASS).pack())
    assert batches.translate([0, 1], -1, 5).status.tolist() == [Status.TRANSLATED, Status.TRANSLATED]
    machine.memory.poison(STREAMS, 1)
    assert batches.translate([0, 1], -1, 5).event.tolist() == [EventCode.F_STE_FETCH, 0]
    machine.write(Offset.CR0, Cr0())
    assert batches.translate([0, 1], -1, 5).rule_of(0) == translate.DISABLED_BYPASS


def test_pages_that_are_touched_far_apart_are_all_found(machine: Machine) -> None:
    batches = BatchTranslator(machine.smmu)
    bases = [(number << 12) * 0x1_2345 + STREAMS for number in range(0, 4000, 7)]
    for base in bases:
        machine.put(base & -0x1000, Ste(v=True, config=Config.BYPASS).pack())
        machine.write(Offset.CR0, Cr0())
        machine.write(Offset.STRTAB_BASE, StrtabBase(addr=base & -0x1000))
        machine.write(Offset.CR0, Cr0(smmuen=True))
        assert batches.translate(0, -1, base).address[0] == base


def test_large_batches_are_translated_element_by_element(machine: Machine) -> None:
    addresses = np.arange(1 << 18, dtype=np.uint64) << np.uint64(12)
    batch = BatchTranslator(machine.smmu).translate(np.arange(1 << 18) % 2, -1, addresses)
    assert (batch.status[0::2] == Status.TRANSLATED).all()
    assert (batch.address[0::2] == addresses[0::2]).all()
    assert (batch.event[1::2] == EventCode.C_BAD_STE).all()


def test_the_smmu_offers_batches_that_read_what_is_stored_since(machine: Machine) -> None:
    assert machine.smmu.translate_batch([0, 1], -1, [4, 5]).address.tolist() == [4, 0]
    machine.put(STREAMS + 64, Ste(v=True, config=Config.BYPASS).pack())
    assert machine.smmu.translate_batch([0, 1], -1, [4, 5], [True, False]).address.tolist() == [4, 5]


def test_compiled_code_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, pasidlab, pasidlab.cli, pasidlab.hw.smmuv3.smmu; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_empty_batch_has_empty_outcomes(machine: Machine) -> None:
    batch = BatchTranslator(machine.smmu).translate([], [], [])
    assert {column.size for column in batch} == {0}


def test_scalars_hold_for_all(machine: Machine) -> None:
    batch = BatchTranslator(machine.smmu).translate(0, -1, [1, 2], True, instruction=[False, True])
    assert batch.address.tolist() == [1, 2]
    assert BatchTranslator(machine.smmu).translate(0, -1, 7).address.tolist() == [7]


def test_addresses_have_all_64_bits(machine: Machine) -> None:
    batch = BatchTranslator(machine.smmu).translate(0, -1, np.array([1 << 63, 5], np.uint64))
    assert batch.event.tolist() == [EventCode.F_ADDR_SIZE, 0]
    assert batch.fault_address.tolist() == [1 << 63, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 0], [-1], [0, 0]), "different lengths: sids 2, ssids 1, addresses 2"),
        (([0], -1, [0], [True, False]), "different lengths: sids 1, addresses 1, writes 2"),
        (([0.0], -1, 0), "sids: float64 elements, expected integers"),
        ((0, [True], 0), "ssids: bool elements, expected integers"),
        ((0, -1, 0, [1]), "writes: int64 elements, expected booleans"),
        (([[0]], -1, 0), "sids: 2 dimensions, expected one"),
        (([0, 1 << 32], -1, 0), "sids: 0x0 to 0x100000000, allowed is 0 to 0xffffffff"),
        ((0, [-2], 0), "ssids: -0x2 to -0x2, allowed is -1 to 0xfffff"),
        ((0, 1 << 20, 0), "ssids: 0x100000 to 0x100000, allowed is -1 to 0xfffff"),
        ((0, -1, [-1]), "addresses: -0x1 to -0x1, allowed is 0 to 0xffffffffffffffff"),
    ],
)
def test_wrong_arrays_are_named(machine: Machine, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        BatchTranslator(machine.smmu).translate(*arguments)
