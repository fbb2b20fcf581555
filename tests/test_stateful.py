"""Random call sequences under every scheme, against a second model that is as simple as it can be.

The second model knows dicts and lists only. It was written from the rules of the kernel and the thread
(docs/thread.md, section 2.1), and from the docstrings of the schemes where these say "by decision". It predicts of each
call the errno, or the number and the bond, and of each state who holds what.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from pasidlab.errors import Errno
from pasidlab.linux.iommu import (
    iommu_alloc_global_pasid,
    iommu_attach_device_pasid,
    iommu_detach_device_pasid,
    iommu_free_global_pasid,
)
from pasidlab.linux.kernel import Arch
from pasidlab.linux.mm import mmput
from pasidlab.linux.profiles import V6_12, V7_3, Profile
from pasidlab.linux.structs import (
    IOMMU_PASID_INVALID,
    AttachHandle,
    Device,
    IommuGroup,
)
from pasidlab.linux.sva import (
    IommuSva,
    iommu_sva_bind_device,
    iommu_sva_bind_device_pasid,
    iommu_sva_get_pasid,
    iommu_sva_unbind_device,
    mm_get_enqcmd_pasid,
    mm_valid_pasid,
)
from pasidlab.rules import Refusal
from pasidlab.schemes import V2, Hybrid, Mainline, Options, Rfc, Scheme
from tests.rig import Rig

EBUSY, EINVAL, EIO, ENODEV, ENOMEM = Errno.EBUSY, Errno.EINVAL, Errno.EIO, Errno.ENODEV, Errno.ENOMEM
ENOSPC, ENOSYS, EOVERFLOW, EPERM = Errno.ENOSPC, Errno.ENOSYS, Errno.EOVERFLOW, Errno.EPERM
INVALID = IOMMU_PASID_INVALID
LOCAL_FIRST = 8  # of guard `range`


@dataclass(frozen=True)
class Spec:
    """A device of the world; `bound` is its max_pasids."""

    group: str
    bits: int | None
    iommu: str
    portal: bool = False
    owner: bool = False

    @property
    def bound(self) -> int:
        return 0 if self.bits is None else 1 << self.bits


WORLD = {
    "wide": Spec("slot", 5, "first", portal=True),
    "bridge": Spec("slot", None, "first"),
    "narrow": Spec("alone", 2, "first", owner=True),
    "left": Spec("pair", 4, "second", portal=True),
    "right": Spec("pair", 2, "second"),
}
OWN_SPACE = {"first": True, "second": False}  # IOMMU_CAP_PER_DEV_PASID_SPACE, which only rfc asks for


def group_of(dev):
    """All devices of the same group: they share numbers, so one portal among them counts for all."""
    return [name for name, spec in WORLD.items() if spec.group == WORLD[dev].group]


def members(dev):
    """The devices of the same group that have PASIDs, in list order."""
    return [name for name, spec in WORLD.items() if spec.group == WORLD[dev].group and spec.bound]


# --- the second model ----------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Mm:
    """An address space: its own number, how it was bound first (v2), and the IOMMUs it has a domain on."""

    name: str
    number: int | None = None
    mode: str = ""
    domains: list = field(default_factory=list)  # the newest first
    has_data: bool = False
    alive: bool = True


@dataclass(eq=False)
class Domain:
    iommu: str


@dataclass(eq=False)
class Bond:
    dev: str
    mm: Mm
    pasid: int
    domain: Domain
    users: int = 1
    normal: bool = False  # hybrid: the normal bind was called for it


class Model:
    """Mainline, and what all designs have in common."""

    def __init__(self, guard="mmap"):
        self.guard = guard
        self.held = {}  # number of the global space -> Mm or "module"
        self.slots = {spec.group: {} for spec in WORLD.values()}  # group -> PASID -> Bond, "handle" or "plain"
        self.fail_set, self.fail_alloc = {}, {}
        self.nth_allocation = 0
        self.first_local = None

    # The calls: each returns an errno, or what it made

    def bind(self, dev, mm):
        if not mm.has_data and self.no_memory():
            return ENOMEM
        if mm.number is None:
            number = self.lowest_free(dev)
            if number is None:
                return ENOSPC
            self.keep(mm, number)
        elif mm.number >= WORLD[dev].bound:
            return EOVERFLOW
        return self.bind_at(dev, mm, mm.number)

    def bind_pasid(self, dev, mm, pasid):
        return ENOSYS

    def attach_any(self, dev):
        return ENOSYS

    def unbind(self, bond):
        bond.users -= 1
        if bond.users:
            return
        del self.slots[WORLD[bond.dev].group][bond.pasid]
        if not any(other.domain is bond.domain for other in self.bonds()):
            bond.mm.domains.remove(bond.domain)
            self.drop_if_unused(bond.mm)

    def exit(self, mm):
        mm.alive = False
        self.drop_if_unused(mm)

    def take(self, dev):
        number = self.lowest_free(dev)
        if number is not None:
            self.held[number] = "module"
        return number

    def attach(self, dev, pasid, entry, iommu=None):
        slots = self.slots[WORLD[dev].group]
        if pasid == 0 or any(pasid >= WORLD[member].bound for member in members(dev)):
            return EINVAL
        if pasid in slots:
            return EBUSY
        for member in members(dev):
            if member in self.fail_set:
                return self.fail_set.pop(member)
            if iommu not in (None, WORLD[member].iommu):
                return EINVAL
        slots[pasid] = entry
        return None

    def map_portal(self, dev, mm):
        if self.guard == "mmap":
            return None if self.has_normal_bond(dev, mm) else EPERM
        return ENODEV if self.guard == "declared" and any(map(self.own_space, group_of(dev))) else None

    def enqcmd(self, mm):
        return mm.number

    # What the calls are made of

    def own_space(self, dev):
        return False

    def has_normal_bond(self, dev, mm):
        return any(bond.mm is mm for bond in self.bonds(dev))

    def guarded(self, dev, pasid):
        return self.guard == "range" and any(WORLD[name].portal for name in group_of(dev)) and pasid < LOCAL_FIRST

    def no_memory(self):
        self.nth_allocation -= 1
        return self.nth_allocation == 0

    def lowest_free(self, dev, also=()):
        bound = WORLD[dev].bound if self.first_local is None else min(WORLD[dev].bound, self.first_local)
        return next((n for n in range(1, bound) if n not in self.held and n not in also), None)

    def keep(self, mm, number):
        """The mm has the global number until nothing refers to it any more."""
        self.held[number] = mm
        mm.number, mm.has_data = number, True

    def drop_if_unused(self, mm):
        if not mm.alive and not mm.domains:
            self.held = {number: holder for number, holder in self.held.items() if holder is not mm}

    def bonds(self, dev=None):
        slots = self.slots.values() if dev is None else [self.slots[WORLD[dev].group]]
        return [entry for entries in slots for entry in entries.values() if isinstance(entry, Bond)]

    def bind_at(self, dev, mm, pasid):
        """The second half of every bind: the slot, a domain that the mm has, a new domain."""
        there = self.slots[WORLD[dev].group].get(pasid)
        if isinstance(there, Bond) and there.mm is mm:
            there.users += 1
            return there
        if there is not None and there != "plain":
            return EBUSY
        if self.no_memory():
            return ENOMEM
        for domain in mm.domains:
            bond = Bond(dev, mm, pasid, domain)
            if self.attach(dev, pasid, bond, domain.iommu) is None:
                return bond
        if dev in self.fail_alloc:
            return self.fail_alloc.pop(dev)
        bond = Bond(dev, mm, pasid, Domain(WORLD[dev].iommu))
        errno = self.attach(dev, pasid, bond)
        if errno is None:
            mm.domains.insert(0, bond.domain)
        return errno or bond


class RfcModel(Model):
    """A number of the device's own where the IOMMU has a space per device; ENQCMD carries that of the oldest bond."""

    def __init__(self, guard):
        super().__init__(guard)
        self.local = []  # bonds on such devices, the oldest first

    def bind(self, dev, mm):
        return self.bind_local(dev, mm) if self.own_space(dev) else super().bind(dev, mm)

    def bind_local(self, dev, mm):
        if not mm.has_data and self.no_memory():
            return ENOMEM
        pasid = next((bond.pasid for bond in self.bonds(dev) if bond.mm is mm), None) or self.any_free(dev)
        if pasid is None:
            return ENOSPC
        if pasid >= WORLD[dev].bound:
            return EOVERFLOW
        outcome = self.bind_at(dev, mm, pasid)
        if isinstance(outcome, Bond):
            mm.has_data = True
            if outcome not in self.local:
                self.local.append(outcome)
        return outcome

    def own_space(self, dev):
        return OWN_SPACE[WORLD[dev].iommu]

    def any_free(self, dev):
        bound = min(WORLD[name].bound for name in [dev, *members(dev)])
        return next((n for n in range(1, bound) if n not in self.slots[WORLD[dev].group]), None)

    def attach_any(self, dev):
        pasid = self.any_free(dev)
        return ENOSPC if pasid is None else self.attach(dev, pasid, "plain") or pasid

    def unbind(self, bond):
        super().unbind(bond)
        if bond in self.local and not bond.users:
            self.local.remove(bond)

    def enqcmd(self, mm):
        return mm.number or next((bond.pasid for bond in self.local if bond.mm is mm), None)


class V2Model(Model):
    """The decision table of docs/thread.md 2.1; the numbers are its rows."""

    def __init__(self, guard):
        super().__init__(guard)
        self.first_local = LOCAL_FIRST if guard == "range" else None

    def bind(self, dev, mm):
        return self.bind_in_mode(dev, mm, "core", None)

    def bind_pasid(self, dev, mm, pasid):
        if pasid == 0 or self.guarded(dev, pasid):
            return EINVAL  # 0, and guard `range`
        return self.bind_in_mode(dev, mm, "driver", pasid)

    def bind_in_mode(self, dev, mm, mode, asked):
        if not mm.mode:
            return self.bind_first(dev, mm, mode, asked)
        if mm.mode != mode:
            return EBUSY  # 3
        if asked and not mm.domains:
            mm.number = asked  # 4
        if asked not in (None, mm.number):
            return ENOSPC  # 5
        return EOVERFLOW if mm.number >= WORLD[dev].bound else self.bind_at(dev, mm, mm.number)  # 6

    def bind_first(self, dev, mm, mode, asked):
        if self.no_memory():
            return ENOMEM
        number = asked or self.lowest_free(dev)
        if number is None:
            return ENOSPC
        if number >= WORLD[dev].bound:
            return EOVERFLOW  # 7
        outcome = self.bind_at(dev, mm, number)
        if isinstance(outcome, Bond):
            mm.mode, mm.number, mm.has_data = mode, number, True
            if mode == "core":
                self.held[number] = mm
        return outcome

    def own_space(self, dev):
        return WORLD[dev].owner

    def has_normal_bond(self, dev, mm):
        return mm.mode == "core" and super().has_normal_bond(dev, mm)

    def enqcmd(self, mm):
        return mm.number if mm.mode == "core" else None


class HybridModel(Model):
    """One global number by normal binds, and any number of pairs (group, number of the driver's) beside it."""

    def __init__(self, guard):
        super().__init__(guard)
        self.first_local = LOCAL_FIRST if guard == "range" else None

    def bind(self, dev, mm):
        return self.with_data(mm, lambda: self.bind_global(dev, mm))

    def bind_pasid(self, dev, mm, pasid):
        if pasid == 0 or self.guarded(dev, pasid):
            return EINVAL
        if pasid >= WORLD[dev].bound:
            return EOVERFLOW
        return self.with_data(mm, lambda: self.bind_at(dev, mm, pasid))

    def bind_global(self, dev, mm):
        """At the mm's number, or the lowest that is free on the group too; kept only on success."""
        number = mm.number or self.lowest_free(dev, also=self.slots[WORLD[dev].group])
        if number is None:
            return ENOSPC
        if number >= WORLD[dev].bound:
            return EOVERFLOW
        outcome = self.bind_at(dev, mm, number)
        if isinstance(outcome, Bond):
            self.keep(mm, number)
            outcome.normal = True
        return outcome

    def with_data(self, mm, bind):
        if not mm.has_data and self.no_memory():
            return ENOMEM
        outcome = bind()
        mm.has_data = mm.has_data or isinstance(outcome, Bond)
        return outcome

    def own_space(self, dev):
        return WORLD[dev].owner

    def has_normal_bond(self, dev, mm):
        bond = self.slots[WORLD[dev].group].get(mm.number)
        return isinstance(bond, Bond) and bond.mm is mm and bond.normal


# --- the machine ---------------------------------------------------------------------------------------------------

devices = st.sampled_from(list(WORLD))
mms = st.sampled_from("abc")
numbers = st.sampled_from([1, 2, 3, 1, 2, 3, 8, 9, 0, 4, 15, 16, 31, 32, INVALID])
allocations = st.sampled_from([0, 0, 0, 0, 1, 2])
places = st.integers(0, 20)


class Machine(RuleBasedStateMachine):
    """Does each call in pasidlab and in the second model, and compares answers and states."""

    def __init__(self, scheme: Scheme, model: Model, profile: Profile, reached: set[str]):
        super().__init__()
        self.scheme, self.model, self.reached = scheme, model, reached
        self.rig = rig = Rig(profile, scheme, arch=Arch.UM)
        self.kernel = rig.kernel
        iommus = {name: rig.iommu(name, per_device=own) for name, own in OWN_SPACE.items()}
        self.groups = {spec.group: IommuGroup(spec.group) for spec in WORLD.values()}
        self.devices = {}
        for name, spec in WORLD.items():
            dev = Device(self.kernel, name, pasid_num_bits=spec.bits, enqcmd_bar=spec.portal, owns_pasids=spec.owner)
            self.devices[name] = rig.probe(dev, self.groups[spec.group], iommus[spec.iommu])
        self.live = {}  # letter -> (MmStruct, Mm)
        self.generations = 0
        self.all_mms = []
        self.uses = []  # (IommuSva, Bond), once for each successful bind
        self.handle_of = {}  # Bond -> IommuSva
        self.module = []  # numbers that a module took
        self.attached = []  # (device, PASID, domain)

    def mm(self, letter):
        """The living mm of a letter; a new one when there is none."""
        if letter not in self.live:
            self.generations += 1
            name = f"{letter}{self.generations}"
            self.live[letter] = self.rig.mm(name), Mm(name)
            self.all_mms.append(self.live[letter])
        return self.live[letter]

    def fail_allocation(self, nth):
        self.kernel.fail_allocation = self.model.nth_allocation = nth

    def agree(self, outcome, expected):
        """Compare an outcome that is no bond."""
        if isinstance(outcome, Refusal):
            assert outcome.errno is expected, f"{outcome!r}: {outcome.why}; expected {expected!r}"
            assert outcome.why
            self.reached.add(outcome.rule.id)
        else:
            assert outcome == expected

    def agree_on_bind(self, outcome, expected):
        self.kernel.fail_allocation = 0
        if not isinstance(outcome, IommuSva):
            self.agree(outcome, expected)
            return
        assert isinstance(expected, Bond), f"bound at {outcome.pasid}; expected {expected!r}"
        assert iommu_sva_get_pasid(outcome) == expected.pasid
        assert (outcome.users, outcome.dev.name, outcome.mm.name) == (expected.users, expected.dev, expected.mm.name)
        assert self.handle_of.setdefault(expected, outcome) is outcome
        assert sum(handle is outcome for handle in self.handle_of.values()) == 1
        self.uses.append((outcome, expected))
        self.reached.add("bound")

    # --- calls -------------------------------------------------------------------------------------------------

    @rule(dev=devices, letter=mms)
    def bind_undisturbed(self, dev, letter):
        self.bind(dev, letter, 0)

    @rule(dev=devices, letter=mms, nth=allocations)
    def bind(self, dev, letter, nth):
        mm, simple = self.mm(letter)
        self.fail_allocation(nth)
        self.agree_on_bind(iommu_sva_bind_device(self.devices[dev], mm), self.model.bind(dev, simple))

    @precondition(lambda self: self.scheme.takes_driver_numbers)
    @rule(dev=devices, letter=mms, pasid=numbers)
    def bind_pasid_undisturbed(self, dev, letter, pasid):
        self.bind_pasid(dev, letter, pasid, 0)

    @precondition(lambda self: self.scheme.takes_driver_numbers)
    @rule(dev=devices, letter=mms, pasid=numbers, nth=allocations)
    def bind_pasid(self, dev, letter, pasid, nth):
        mm, simple = self.mm(letter)
        self.fail_allocation(nth)
        outcome = iommu_sva_bind_device_pasid(self.devices[dev], mm, pasid)
        self.agree_on_bind(outcome, self.model.bind_pasid(dev, simple, pasid))

    @precondition(lambda self: self.uses)
    @rule(place=places)
    def unbind(self, place):
        handle, bond = self.uses.pop(place % len(self.uses))
        iommu_sva_unbind_device(handle)
        self.model.unbind(bond)

    @precondition(lambda self: self.live)
    @rule(letter=mms)
    def exit(self, letter):
        if letter in self.live:
            mm, simple = self.live.pop(letter)
            mmput(mm)
            self.model.exit(simple)

    @rule(dev=devices)
    def take(self, dev):
        pasid = iommu_alloc_global_pasid(self.devices[dev])
        assert (None if pasid == INVALID else pasid) == self.model.take(dev)
        if pasid != INVALID:
            self.module.append(pasid)
            self.kernel.global_users[pasid] = "module"

    @precondition(lambda self: self.module)
    @rule(place=places)
    def give(self, place):
        pasid = self.module.pop(place % len(self.module))
        iommu_free_global_pasid(self.kernel, pasid)
        del self.model.held[pasid]

    @rule(dev=devices, pasid=numbers, with_handle=st.booleans())
    def attach(self, dev, pasid, with_handle):
        handle = AttachHandle() if with_handle else None
        domain = self.rig.domain(self.devices[dev])
        outcome = iommu_attach_device_pasid(domain, self.devices[dev], pasid, handle)
        self.agree(outcome, self.model.attach(dev, pasid, "handle" if with_handle else "plain"))
        if outcome is None:
            self.attached.append((dev, pasid, domain))

    @precondition(lambda self: self.scheme.name == "rfc")
    @rule(dev=devices)
    def attach_any(self, dev):
        domain = self.rig.domain(self.devices[dev])
        outcome = self.scheme.attach_device_pasid_any(domain, self.devices[dev])
        self.agree(outcome, self.model.attach_any(dev))
        if isinstance(outcome, int):
            self.attached.append((dev, outcome, domain))

    @precondition(lambda self: self.attached)
    @rule(place=places)
    def detach(self, place):
        dev, pasid, domain = self.attached.pop(place % len(self.attached))
        iommu_detach_device_pasid(domain, self.devices[dev], pasid)
        del self.model.slots[WORLD[dev].group][pasid]

    @rule(dev=devices, what=st.sampled_from(["set", "domain"]))
    def fail_next(self, dev, what):
        ours, simple = self.rig.driver, self.model
        if what == "set":
            ours.fail_set[self.devices[dev]] = simple.fail_set[dev] = EIO
        else:
            ours.fail_alloc[self.devices[dev]] = simple.fail_alloc[dev] = EIO

    @precondition(lambda self: self.live)
    @rule(dev=devices, letter=mms)
    def map_portal(self, dev, letter):
        mm, simple = self.mm(letter)
        self.agree(self.scheme.may_map_portal(self.devices[dev], mm), self.model.map_portal(dev, simple))

    # --- states ------------------------------------------------------------------------------------------------

    @invariant()
    def the_same_slots_are_taken(self):
        for name, group in self.groups.items():
            assert {pasid: kind_of(entry) for pasid, entry in group.pasid_array.items()} == {
                pasid: entry.mm.name if isinstance(entry, Bond) else entry
                for pasid, entry in self.model.slots[name].items()
            }

    @invariant()
    def the_same_holders_have_the_same_numbers(self):
        def text(holder):
            if holder == "module":
                return "module"
            return f"process {holder.name}" if holder.alive else f"process {holder.name}, exited, kept by a bond"

        assert self.rig.holders == {number: text(holder) for number, holder in self.model.held.items()}

    @invariant()
    def every_mm_offers_the_same_number_to_enqcmd(self):
        for mm, simple in self.live.values():
            assert mm_get_enqcmd_pasid(mm) == (self.model.enqcmd(simple) or INVALID)
            assert mm_valid_pasid(mm) == simple.has_data

    @invariant()
    def an_mm_lives_as_long_as_a_task_or_a_domain(self):
        assert [mm.name for mm in self.kernel.mms] == [
            simple.name for _, simple in self.all_mms if simple.alive or simple.domains
        ]

    @invariant()
    def the_domains_of_an_mm_are_used_by_its_bonds(self):
        for mm, simple in self.all_mms:
            if mm in self.kernel.mms and mm.iommu_mm:
                users = [sum(b.domain is domain for b in self.model.bonds()) for domain in simple.domains]
                assert [domain.users for domain in mm.iommu_mm.sva_domains] == users

    @invariant()
    def the_core_lists_the_mms_with_domains(self):
        assert {mm.name for mm in self.kernel.iommu_sva_mms} == {mm.name for _, mm in self.all_mms if mm.domains}

    @invariant()
    def a_bond_sits_at_its_own_number(self):
        for handle, bond in self.uses:
            assert handle.dev.iommu_group.pasid_array[handle.pasid] is handle
            assert handle.pasid == bond.pasid

    @invariant()
    def the_hardware_has_what_the_slots_say_in_every_member(self):
        expected = {}
        for name, group in self.groups.items():
            for pasid, entry in self.model.slots[name].items():
                for dev in group.devices:
                    if dev.max_pasids:
                        expected[dev, pasid] = entry.mm.name if isinstance(entry, Bond) else None
        entries = self.rig.driver.entries
        assert {place: domain.mm and domain.mm.name for place, domain in entries.items()} == expected

    @invariant()
    def nothing_is_warned_of(self):
        assert self.kernel.warnings == 0

    def teardown(self):
        """When all is unbound, detached, freed and exited, nothing is held."""
        for handle, _ in self.uses:
            iommu_sva_unbind_device(handle)
        for dev, pasid, domain in self.attached:
            iommu_detach_device_pasid(domain, self.devices[dev], pasid)
        for pasid in self.module:
            iommu_free_global_pasid(self.kernel, pasid)
        for mm, _ in self.live.values():
            mmput(mm)
        assert self.rig.held == []
        assert self.kernel.mms == {}
        assert self.kernel.iommu_sva_mms == {}
        assert self.rig.driver.entries == {}
        assert [group.pasid_array for group in self.groups.values()] == [{}] * len(self.groups)
        assert self.kernel.warnings == 0


def kind_of(entry):
    """What a slot of pasidlab holds, in the words of the second model."""
    if isinstance(entry, IommuSva):
        return entry.mm.name
    return "handle" if isinstance(entry, AttachHandle) else "plain"


# --- the tests -----------------------------------------------------------------------------------------------------

COMMON = {
    "bound",
    "attach.beyond-max-pasids",
    "attach.pasid-zero",
    "attach.slot-taken",
    "bind.no-number-free",
    "driver.domain-alloc-failed",
    "driver.set-failed",
}
LINUX = COMMON | {"bind.number-too-wide", "bind.no-memory", "bind.no-memory-for-handle"}
RFC_RULES = LINUX | {"rfc.device-full"}
V2_RULES = LINUX | {"bind-pasid.zero", "v2.mode-differs", "v2.number-too-wide", "v2.other-number-live"}
HYBRID_RULES = LINUX | {"bind-pasid.zero", "bind.number-of-other-mm", "hybrid.local-too-wide"}
CASES = {
    "mainline": (Mainline, Model, "mmap", V7_3, LINUX | {"portal.no-bond"}),
    "mainline, 6.12": (Mainline, Model, "none", V6_12, LINUX),
    "rfc": (Rfc, RfcModel, "mmap", V7_3, RFC_RULES | {"portal.no-bond"}),
    "rfc, declared": (Rfc, RfcModel, "declared", V6_12, RFC_RULES | {"portal.declared-non-enqcmd"}),
    "v2": (V2, V2Model, "mmap", V7_3, V2_RULES | {"portal.no-bond"}),
    "v2, range": (V2, V2Model, "range", V7_3, V2_RULES | {"guard.local-in-global-range"}),
    "v2, 6.12": (V2, V2Model, "declared", V6_12, V2_RULES | {"portal.declared-non-enqcmd"}),
    "hybrid, mmap": (Hybrid, HybridModel, "mmap", V7_3, HYBRID_RULES | {"portal.no-bond"}),
    "hybrid, range": (Hybrid, HybridModel, "range", V7_3, HYBRID_RULES | {"guard.local-in-global-range"}),
    "hybrid, declared": (Hybrid, HybridModel, "declared", V6_12, HYBRID_RULES | {"portal.declared-non-enqcmd"}),
    "hybrid, none": (Hybrid, HybridModel, "none", V7_3, HYBRID_RULES),
}
"""Scheme, second model, guard, kernel; and the rules that the sequences must reach, lest they be vacuous."""

RUN = settings(
    max_examples=100,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.parametrize("case", CASES)
def test_random_calls_agree_with_the_second_model(case):
    scheme, model, guard, profile, must_reach = CASES[case]
    reached = set()

    def machine():
        return Machine(scheme(Options(guard=guard, local_first=LOCAL_FIRST)), model(guard), profile, reached)

    run_state_machine_as_test(machine, settings=RUN)
    assert must_reach - reached == set()
