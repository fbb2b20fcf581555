"""VT-d words: golden vectors, each with a sibling that differs in one field, and reading that never fails."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasidlab.hw.vtd import descriptors, records, registers, structures
from pasidlab.hw.vtd.descriptors import (
    ContextCacheInvalidate,
    Descriptor,
    DescriptorType,
    DeviceTlbInvalidate,
    InvalidationWait,
    IotlbInvalidate,
    PageGroupResponse,
    PasidCacheGranularity,
    PasidCacheInvalidate,
    PasidDeviceTlbInvalidate,
    PasidIotlbGranularity,
    PasidIotlbInvalidate,
    descriptor_of,
    sized_range,
)
from pasidlab.hw.vtd.features import FAULT_RECORDING_OFFSET, IOTLB_OFFSET, Features
from pasidlab.hw.vtd.legality import PASID_RESERVED, pasid_fault, reserved_in_pasid_entry
from pasidlab.hw.vtd.records import PAGE_REQUEST, FaultRecord, PageRequest, Reason, ResponseCode
from pasidlab.hw.vtd.registers import (
    REGISTERS,
    Cap,
    Ecap,
    Fsts,
    Gcmd,
    Granularity,
    Gsts,
    Iqa,
    Offset,
    Rtaddr,
    Ttm,
)
from pasidlab.hw.vtd.structures import (
    AddressWidth,
    ContextEntry,
    Flpm,
    PasidDirectoryEntry,
    PasidEntry,
    Pgtt,
    RootEntry,
    ScalableContextEntry,
    ScalableRootEntry,
    TranslationType,
)
from pasidlab.words import Word

PASID = 0x12345
SOURCE = 0x6A01
CONTEXT = {"p": 1, "dte": 1, "paside": 1, "pre": 1, "pdts": 7, "pasiddirptr": 0x1_2345_6000}
SVA_ENTRY = {"p": 1, "aw": AddressWidth.BITS_48, "pgtt": Pgtt.FIRST_STAGE, "did": 1, "fsptptr": 0x8_8765_4000}

GOLDEN: dict[str, tuple[type[Word], dict[str, int], tuple[int, ...]]] = {
    "scalable context entry": (ScalableContextEntry, CONTEXT, (0x1_2345_6E1D,)),
    "PASID entry for SVA": (PasidEntry, SVA_ENTRY, (0x49, 0x1, 0x8_8765_4000)),
    "PASID entry, 5 levels": (PasidEntry, SVA_ENTRY | {"fspm": Flpm.FIVE_LEVEL}, (0x49, 0x1, 0x8_8765_4004)),
    "PASID entry, supervisor": (PasidEntry, SVA_ENTRY | {"sre": 1, "wpe": 1}, (0x49, 0x1, 0x8_8765_4011)),
    "PASID entry, second stage": (
        PasidEntry,
        {"p": 1, "aw": AddressWidth.BITS_39, "pgtt": Pgtt.SECOND_STAGE, "ssptptr": 0x5000, "did": 0x20, "pgsnp": 1},
        (0x5085, 0x100_0020),
    ),
    "PASID directory entry": (PasidDirectoryEntry, {"p": 1, "smptblptr": 0x7_0000_1000}, (0x7_0000_1001,)),
    "root entry": (RootEntry, {"p": 1, "ctp": 0x2000}, (0x2001, 0)),
    "scalable root entry": (ScalableRootEntry, {"lp": 1, "lctp": 0x2000, "up": 1, "uctp": 0x3000}, (0x2001, 0x3001)),
    "legacy context entry": (
        ContextEntry,
        {"p": 1, "tt": TranslationType.ALL, "ssptptr": 0x4000, "aw": AddressWidth.BITS_48, "did": 0x1234},
        (0x4005, 0x12_3402),
    ),
    "PASID cache invalidation": (
        PasidCacheInvalidate,
        {"type": 7, "g": PasidCacheGranularity.PASID, "did": 1, "pasid": PASID},
        (0x0001_2345_0001_0017, 0),
    ),
    "PASID-based IOTLB invalidation": (
        PasidIotlbInvalidate,
        {"type": 6, "g": PasidIotlbGranularity.PASID, "did": 1, "pasid": PASID},
        (0x0001_2345_0001_0026, 0),
    ),
    "PASID-based IOTLB invalidation of pages": (
        PasidIotlbInvalidate,
        {"type": 6, "g": PasidIotlbGranularity.PAGES, "did": 1, "pasid": PASID, "am": 3, "ih": 1, "addr": 0x7000_8000},
        (0x0001_2345_0001_0036, 0x7000_8043),
    ),
    "PASID-based device-TLB invalidation": (
        PasidDeviceTlbInvalidate,
        {"type": 8, "sid": SOURCE, "pasid": PASID, "s": 1, "addr": 0x7FFF_FFFF_FFFF_F000},
        (0x0001_2345_6A01_0008, 0x7FFF_FFFF_FFFF_F800),
    ),
    "device-TLB invalidation": (
        DeviceTlbInvalidate,
        {"type": 3, "sid": SOURCE, "s": 1, "addr": 0x7FFF_FFFF_FFFF_F000, "mip": 4},
        (0x0000_6A01_0004_0003, 0x7FFF_FFFF_FFFF_F001),
    ),
    "IOTLB invalidation of a domain": (
        IotlbInvalidate,
        {"type": 2, "g": Granularity.DOMAIN, "dw": 1, "dr": 1, "did": 0x20},
        (0x0020_00E2, 0),
    ),
    "context cache invalidation of a device": (
        ContextCacheInvalidate,
        {"type": 1, "g": Granularity.SELECTIVE, "did": 2, "sid": SOURCE, "fm": 1},
        (0x0001_6A01_0002_0031, 0),
    ),
    "wait": (
        InvalidationWait,
        {"type": 5, "sw": 1, "fn": 1, "pd": 1, "stdata": 2, "staddr": 0x8000_1000},
        (0x0000_0002_0000_00E5, 0x8000_1000),
    ),
    "page group response": (
        PageGroupResponse,
        {"type": 9, "pp": 1, "rid": SOURCE, "pasid": PASID, "prgi": 0x1A, "lpig": 1},
        (0x0001_2345_6A01_0019, 0xD4),
    ),
    "page request": (
        PageRequest,
        {"type": 1, "pp": 1, "rid": SOURCE, "pasid": PASID, "rd": 1, "lpig": 1, "prgi": 0x1A, "addr": 0x7F00_1234_5000},
        (0x0001_2345_6A01_0101, 0x7F00_1234_50D5),
    ),
    "fault record": (
        FaultRecord,
        {"fi": 0x7F00_1234_5000, "sid": SOURCE, "pp": 1, "fr": Reason.FIRST_NOT_PRESENT, "pv": PASID, "t1": 1, "f": 1},
        (0x7F00_1234_5000, 0xC123_4571_8000_6A01),
    ),
    "RTADDR": (Rtaddr, {"ttm": Ttm.SCALABLE, "rta": 0x9000}, (0x9400,)),
    "IQA": (Iqa, {"qs": 1, "dw": 1, "iqa": 0xA000}, (0xA801,)),
    "GCMD": (Gcmd, {"te": 1, "qie": 1}, (0x8400_0000,)),
    "GSTS": (Gsts, {"tes": 1, "rtps": 1}, (0xC000_0000,)),
    "FSTS": (Fsts, {"ppf": 1, "iqe": 1, "fri": 3}, (0x312,)),
}

every_vector = pytest.mark.parametrize(("word", "fields", "words"), GOLDEN.values(), ids=list(GOLDEN))


@every_vector
def test_a_word_has_the_bits_of_the_specification(
    word: type[Word], fields: dict[str, int], words: tuple[int, ...]
) -> None:
    built = word(**fields)
    count = max(word.SIZE // 64, 1)
    assert built.words == words + (0,) * (count - len(words))
    assert word.from_words(*words) == built
    assert {name: getattr(built, name) for name in fields} == fields
    assert built.reserved == 0


@every_vector
def test_a_sibling_with_one_field_changed_is_another_word(
    word: type[Word], fields: dict[str, int], words: tuple[int, ...]
) -> None:
    built = word(**fields)
    for name, field in word.FIELDS.items():
        flipped = word(int(built) ^ 1 << field.lsb)
        assert flipped.words != built.words
        assert getattr(flipped, name) != getattr(built, name)


def test_capabilities_say_what_a_unit_can_do() -> None:
    unit = Features(pasid_bits=16, second_levels=frozenset({4}), guest_bits=48, domain_bits=8, fault_records=2)
    cap, ecap = unit.cap(), unit.ecap()
    assert (cap.nd, cap.sagaw, cap.mgaw, cap.nfr, cap.fro << 4) == (2, 0b100, 47, 1, FAULT_RECORDING_OFFSET)
    assert (ecap.pss, ecap.pasid, ecap.smts, ecap.fsts, ecap.iro << 4) == (15, True, True, True, IOTLB_OFFSET)
    bare = Features(pasid_bits=0, scalable=False, five_level=False, page_requests=False, device_tlb=False)
    assert (bare.ecap().pasid, bare.ecap().smts, bare.ecap().prs, bare.ecap().dt) == (False,) * 4
    assert not bare.cap().fs5lp


def test_the_bits_of_capabilities_are_where_linux_looks_for_them() -> None:
    """ecap_pasid is bit 40, ecap_smts 43, ecap_flts 47, ecap_slts 46, ecap_smpwc 48; cap_fl5lp 60, cap_fl1gp 56."""
    assert Ecap(pasid=1, smts=1, fsts=1, ssts=1, smpwcs=1, pss=19) == (
        1 << 40 | 1 << 43 | 1 << 47 | 1 << 46 | 1 << 48 | 19 << 35
    )
    assert Cap(fs5lp=1, fs1gp=1, cm=1, psi=1) == 1 << 60 | 1 << 56 | 1 << 7 | 1 << 39


def test_fields_of_snoop_control_are_reserved_without_it() -> None:
    entry = PasidEntry(**SVA_ENTRY, pgsnp=1)
    for snoop_control in (False, True):
        unit = Features(snoop_control=snoop_control)
        fault = pasid_fault(entry, unit, reserved_in_pasid_entry(unit))
        assert unit.ecap().sc is snoop_control
        assert fault is (None if snoop_control else PASID_RESERVED)


@pytest.mark.parametrize(
    ("feature", "value", "message"),
    [
        ("pasid_bits", 21, "Features.pasid_bits=21: allowed are 0 to 20$"),
        ("domain_bits", 5, "Features.domain_bits=5: allowed are 4 to 16, in steps of 2$"),
        ("fault_records", 0, "Features.fault_records=0: allowed are 1 to 256$"),
        ("host_bits", 53, "Features.host_bits=53: allowed are 30 to 52$"),
        ("second_levels", frozenset({2}), r"Features.second_levels=\[2\]: allowed are 3, 4 and 5"),
        ("device_tlb", False, "Features.page_requests=True: allowed only with device_tlb=True"),
    ],
)
def test_a_feature_that_no_register_can_say_is_named(feature: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Features(**{feature: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("address", "s", "covered"),
    [
        (0x5000, False, (0x5000, 0x1000)),
        (0x4000, True, (0x4000, 0x2000)),
        (0x5000, True, (0x4000, 0x4000)),
        (0x3000, True, (0x0000, 0x8000)),
        (0x4_7000, True, (0x4_0000, 0x1_0000)),
        (0x7FFF_FFFF_FFFF_F000, True, (0, None)),
        (0xFFFF_FFFF_FFFF_F000, True, (0, None)),
    ],
)
def test_the_lowest_zero_bit_says_the_size(address: int, s: bool, covered: tuple[int, int | None]) -> None:
    assert sized_range(address, s) == covered


@given(st.integers(0, 51 - 12), st.integers(0, 1 << 30))
def test_a_size_that_was_said_is_heard(order: int, place: int) -> None:
    size = 0x2000 << order
    start = place * size & (1 << 63) - 1 & -size
    said = start | (size >> 1) - 0x1000
    assert sized_range(said, True) == (start, size)


def test_every_descriptor_type_has_a_class() -> None:
    for kind in DescriptorType:
        assert type(descriptor_of(kind)).TYPE is kind
    assert type(descriptor_of(10)) is Descriptor


@given(st.integers(0, (1 << 512) - 1))
def test_reading_any_bits_never_fails(raw: int) -> None:
    for module in (structures, records, registers, descriptors):
        for word in vars(module).values():
            if isinstance(word, type) and issubclass(word, Word) and word not in (Word, Descriptor):
                read = word(raw & (1 << word.SIZE) - 1)
                assert all(getattr(read, name) is not None for name in word.FIELDS)
                assert repr(read)
    assert isinstance(descriptor_of(raw & (1 << 256) - 1), Descriptor)


def test_each_register_has_its_place_and_no_two_overlap() -> None:
    assert set(REGISTERS) == set(Offset)
    taken = [byte for offset, word in REGISTERS.items() for byte in range(offset, offset + word.SIZE // 8)]
    assert len(taken) == len(set(taken))
    assert max(taken) < IOTLB_OFFSET < IOTLB_OFFSET + 16 <= FAULT_RECORDING_OFFSET


def test_response_codes_are_those_of_pci_express() -> None:
    assert [int(code) for code in ResponseCode] == [0, 1, 15]
    assert PAGE_REQUEST == 1
