"""Configuration space: what its bytes say, what they do not reach, and what is wrong with them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.errors import InputError
from pasidlab.platforms.pci.config import ConfigSpace, Header, Listed, joined, read_config
from pasidlab.platforms.pci.words import (
    CONFIG_BYTES,
    AcsCapability,
    AtsCapability,
    CapabilityHeader,
    ExpressCapability,
    ExtendedHeader,
    PasidCapability,
    PortType,
    PriCapability,
    SriovCapability,
)
from pasidlab.platforms.said import rid_of
from tests.pci_machine import acs, ats, bridge, config, endpoint, pasid, pri, put, sriov

CAPABILITIES = (ExpressCapability, AcsCapability, AtsCapability, PriCapability, PasidCapability, SriovCapability)
WHOLE = config(endpoint(), PortType.ENDPOINT, [pasid(20), ats()])


def only(space: ConfigSpace) -> tuple[str, str]:
    """Return the rule and the sentence of a space's only finding."""
    (finding,) = space.findings
    return finding.rule.id, finding.why


def test_what_was_built_of_words_is_read_back() -> None:
    words = [
        acs(),
        ats(enable=1),
        pri(prg_response_pasid_required=1),
        pasid(17, privileged=1, enable=1),
        sriov(4, 2, 3),
    ]
    space = read_config(config(endpoint(0x8086, 0x0B25, revision_id=3), PortType.INTEGRATED_ENDPOINT, words))
    assert space.header == Header(0x8086, 0x0B25, 3, 0x088000, 0, False, None)
    assert space.findings == []
    assert space.extended_known
    assert space.unread == ""
    pasids, requests, virtual = space.get(PasidCapability), space.get(PriCapability), space.get(SriovCapability)
    assert pasids is not None
    assert (pasids.max_width, pasids.execute, pasids.privileged, pasids.enable) == (17, False, True, True)
    assert requests is not None
    assert requests.prg_response_pasid_required
    assert virtual is not None
    assert (virtual.num_vfs, virtual.first_vf_offset, virtual.vf_stride) == (4, 2, 3)
    express = space.get(ExpressCapability)
    assert express is not None
    assert express.port_type is PortType.INTEGRATED_ENDPOINT
    assert space.prefix_supported
    assert space.origin(PasidCapability, "Max PASID Width 17") == (
        "config, offset 0x1c0, PASID capability, Max PASID Width 17"
    )


def test_fields_lie_where_the_kernel_has_them() -> None:
    """Offsets and masks of include/uapi/linux/pci_regs.h."""
    space = bytearray(64)
    space[4:8] = (0x05 << 8 | 0x06 | 0x06 << 16 | 1 << 16).to_bytes(4, "little")
    word = PasidCapability.unpack(bytes(space[:8]))
    assert (word.max_width, word.execute, word.privileged) == (5, True, True)
    assert (word.enable, word.execute_enable, word.privileged_enable) == (True, True, True)
    assert PriCapability(0x8000 << 48).outstanding_capacity == 0
    assert PriCapability(0x8000 << 48).prg_response_pasid_required
    assert AtsCapability(0x8000 << 48).enable
    assert AcsCapability(0x0014 << 48).request_redirect_enable
    assert AcsCapability(0x0014 << 48).upstream_forwarding_enable
    assert ExpressCapability(0x00200000 << 8 * 0x24).prefix_supported
    assert ExpressCapability(0x8000 << 8 * 0x28).prefix_blocking
    assert SriovCapability(1 << 8 * 0x10).num_vfs == 1
    assert SriovCapability(1 << 8 * 0x14).first_vf_offset == 1
    assert SriovCapability(1 << 8 * 0x16).vf_stride == 1


def test_bridges_have_bus_numbers_and_others_have_not() -> None:
    assert read_config(config(bridge(3, 7))).header.buses == (3, 7)
    assert read_config(config(bridge(0, 0))).header.buses is None
    assert read_config(config(endpoint(secondary_bus=3))).header.buses is None


def test_a_read_that_is_not_rootly_leaves_all_capabilities_unknown() -> None:
    space = read_config(WHOLE[:64])
    assert [space.has(kind) for kind in CAPABILITIES] == [None] * 6
    assert space.header.vendor_id == 0x1B36
    assert space.unread == "64 bytes were read"
    assert space.prefix_supported is None


def test_256_bytes_leave_the_extended_list_unknown() -> None:
    space = read_config(WHOLE[:256])
    assert space.has(ExpressCapability) is True
    assert space.has(PasidCapability) is None
    assert space.pasid_bits is None
    assert space.prefix_supported is True
    assert space.unread == "256 bytes were read"


def test_conventional_pci_has_no_extended_list_however_little_was_read() -> None:
    space = read_config(config(endpoint(), None)[:256])
    assert [space.has(kind) for kind in CAPABILITIES] == [False] * 6
    assert space.unread == ""
    assert read_config(config(endpoint(), None)[:64]).has(PasidCapability) is False, "there is no list at all"


def test_a_whole_read_knows_what_is_absent() -> None:
    space = read_config(WHOLE)
    assert space.has(PriCapability) is False
    assert space.has(PasidCapability) is True
    assert space.extended == (Listed(0x1B, 0x100), Listed(0x0F, 0x140))


def test_the_first_version_of_pci_express_has_no_prefixes() -> None:
    assert read_config(config(endpoint(), version=1)).prefix_supported is False


def test_other_capabilities_are_kept_by_number() -> None:
    dvsec = ExtendedHeader(capability_id=0x23)
    space = read_config(config(endpoint(), PortType.ENDPOINT, [dvsec, pasid(1)]))
    assert space.extended == (Listed(0x23, 0x100), Listed(0x1B, 0x140))
    assert space.pasid_bits == 1


def test_of_two_capabilities_with_one_number_the_first_counts() -> None:
    assert read_config(config(endpoint(), PortType.ENDPOINT, [pasid(9), pasid(10)])).pasid_bits == 9


def test_a_virtual_function_has_no_ids_but_is_awake() -> None:
    space = read_config(config(endpoint(0xFFFF, 0xFFFF), PortType.ENDPOINT, [ats()]))
    assert space.header.vendor_id is None
    assert space.has(AtsCapability) is True
    assert space.findings == []


def test_all_ones_are_a_function_that_is_asleep() -> None:
    space = read_config(b"\xff" * 4096, "dump", rid_of("6a:01.0"))
    assert space.has(ExpressCapability) is None
    assert only(space) == (
        "pci.asleep",
        "dump, 0000:6a:01.0: the function answers all ones, so it is powered down (D3cold) or gone; nothing is known "
        "of it",
    )


def test_a_width_over_20_is_20_and_a_finding() -> None:
    space = read_config(config(endpoint(), PortType.ENDPOINT, [pasid(31)]))
    assert space.pasid_bits == 20
    assert only(space) == (
        "pci.pasid-width",
        "config, offset 0x100: Max PASID Width is 31, and a PASID has 20 bits; 20 are taken",
    )


@pytest.mark.parametrize("extended", [False, True])
def test_a_list_that_comes_back_ends_there(extended: bool) -> None:
    raw = bytearray(WHOLE)
    if extended:
        put(raw, 0x140, ats().replace(next_capability=0x100))
    else:
        put(raw, 0x40, CapabilityHeader(capability_id=0x10, next_capability=0x40))
    space = read_config(bytes(raw))
    place = "0x100" if extended else "0x40"
    assert space.has(PriCapability) is False
    assert only(space) == (
        "pci.capability-loop",
        f"config, offset {place}: the list of capabilities comes back here; what follows is not read",
    )


@pytest.mark.parametrize(("pointer", "least"), [(0x20, 0x40), (0xC0, 0x100)])
def test_a_pointer_to_before_where_capabilities_begin_ends_the_list(pointer: int, least: int) -> None:
    raw = bytearray(WHOLE)
    if least == 0x40:
        put(raw, 0x40, CapabilityHeader(capability_id=0x10, next_capability=pointer))
    else:
        put(raw, 0x140, ats().replace(next_capability=pointer))
    place = "0x40" if least == 0x40 else "0x140"
    space = read_config(bytes(raw))
    assert space.pasid_bits == 20, "what came before counts"
    assert only(space) == (
        "pci.bad-pointer",
        f"config, offset {place}: the next capability is said to be at {pointer:#x}, below {least:#x}; the list ends "
        "here",
    )


def test_the_two_lowest_bits_of_a_pointer_do_not_count() -> None:
    raw = bytearray(WHOLE)
    put(raw, 0x100, pasid(20).replace(next_capability=0x143))
    space = read_config(bytes(raw))
    assert space.has(AtsCapability) is True
    assert only(space) == (
        "pci.unaligned-pointer",
        "config, offset 0x100: the next capability is said to be at 0x143; its two lowest bits are left out",
    )


def test_a_capability_of_ones_ends_the_list() -> None:
    raw = bytearray(WHOLE)
    raw[0x140:0x148] = b"\xff" * 8
    space = read_config(bytes(raw))
    assert space.has(AtsCapability) is False
    assert only(space) == (
        "pci.broken-list",
        "config, offset 0x140: the capability here is all ones; the list ends here",
    )


def test_a_capability_at_the_very_end_does_not_fit() -> None:
    raw = bytearray(WHOLE)
    put(raw, 0x140, ats().replace(next_capability=0xFFC))
    put(raw, 0xFFC, ExtendedHeader(capability_id=0x13))
    space = read_config(bytes(raw))
    assert space.has(PriCapability) is True
    assert space.get(PriCapability) is None
    assert only(space) == (
        "pci.capability-short",
        "config, offset 0xffc: PRI needs 16 bytes, and 4 are left; it is not read",
    )


@pytest.mark.parametrize("size", [0, 1, 63, 4097])
def test_what_has_the_wrong_size_is_no_configuration_space(size: int) -> None:
    with pytest.raises(InputError, match=f"^here: {size} bytes are no configuration space, which has 64 to 4096$"):
        read_config(b"\0" * size, "here")


def test_two_reads_tell_together_what_neither_does_alone() -> None:
    text = ConfigSpace("text", found=read_config(WHOLE).found, extended_known=True, standard_known=True)
    both = joined(read_config(WHOLE[:256]), text)
    assert both.pasid_bits == 20
    assert both.has(PriCapability) is False
    assert both.unread == ""
    assert both.header.vendor_id == 0x1B36


@settings(max_examples=300, deadline=None)
@given(st.binary(min_size=0, max_size=300), st.integers(0, 4096), st.binary(max_size=16), st.integers(0, 4090))
def test_any_bytes_are_read_or_refused(head: bytes, size: int, patch: bytes, at: int) -> None:
    raw = bytearray(WHOLE)
    raw[: len(head)] = head
    raw[at : at + len(patch)] = patch
    check_bounded(bytes(raw[:size]))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0x34, CONFIG_BYTES - 1), st.integers(0, 255)), max_size=24))
def test_any_mutation_is_read_within_bounds(changes: list[tuple[int, int]]) -> None:
    raw = bytearray(WHOLE)
    for at, value in changes:
        raw[at] = value
    check_bounded(bytes(raw))


def check_bounded(data: bytes) -> None:
    """Read bytes: nothing but InputError may come, and no list is longer than there is room for."""
    try:
        space = read_config(data)
    except InputError:
        assert not 64 <= len(data) <= 4096
        return
    assert len(space.standard) <= 48
    assert len(space.extended) <= 960
    assert len(space.findings) <= 1100
    for kind in CAPABILITIES:
        assert space.has(kind) in (True, False, None)
        assert (space.get(kind) is None) or space.has(kind) is True
    assert all(finding.why for finding in space.findings)
