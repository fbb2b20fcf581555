"""The 64-byte stores: what reaches the bus, and what makes the CPU refuse. One rule per test."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasidlab.hw.cpu import (
    SIZE,
    Answer,
    Arm64Cpu,
    Arm64Registers,
    CpuException,
    Instruction,
    Store,
    X86Cpu,
    X86Registers,
    descriptor,
    ia32_pasid,
    st64bv_status,
    zero_flag,
)

ENQCMD, ENQCMDS, MOVDIR64B = Instruction.ENQCMD, Instruction.ENQCMDS, Instruction.MOVDIR64B
ST64B, ST64BV, ST64BV0 = Instruction.ST64B, Instruction.ST64BV, Instruction.ST64BV0
X86_INSTRUCTIONS = (ENQCMD, ENQCMDS, MOVDIR64B)
ARM64_INSTRUCTIONS = (ST64B, ST64BV, ST64BV0)

X86 = X86Cpu(enqcmd=True, movdir64b=True)
ARM64 = Arm64Cpu(ls64=3, en_als=True, en_asr=True, en_as0=True)
LINUX_7_3 = Arm64Cpu(ls64=3, en_als=True, en_asr=False, en_as0=False)  # Linux 7.3.4
EVERYTHING_ONE = b"\xff" * SIZE

pasids = st.integers(0, 0xFFFFF)
sources = st.binary(min_size=SIZE, max_size=SIZE)
sources_from_32 = st.binary(min_size=SIZE - 4, max_size=SIZE - 4).map(lambda rest: bytes(4) + rest)


def x86(instruction, source=bytes(SIZE), *, ia32_pasid=0x8001_2345, cpu=X86, **how):
    return cpu.execute(instruction, X86Registers(ia32_pasid), source, **how)


def arm64(instruction, source=bytes(SIZE), *, accdata_el1=0, cpu=ARM64, **how):
    return cpu.execute(instruction, Arm64Registers(accdata_el1), source, **how)


def gp(reason):
    return CpuException("#GP(0)", reason)


# IA32_PASID


def test_ia32_pasid_is_the_number_and_bit_31():
    assert ia32_pasid(0x12345) == 0x8001_2345  # golden value
    assert ia32_pasid(0) == 0x8000_0000
    assert ia32_pasid(0xFFFFF) == 0x800F_FFFF


@pytest.mark.parametrize(
    ("pasid", "message"),
    [(0x100000, r"^PASID 0x100000 does not fit bits 19:0$"), (-1, r"^PASID -0x1 does not fit bits 19:0$")],
)
def test_ia32_pasid_refuses_more_than_20_bits(pasid, message):
    with pytest.raises(ValueError, match=message):
        ia32_pasid(pasid)


def test_a_new_task_has_no_valid_pasid():
    assert X86Registers().ia32_pasid == 0
    assert not X86Registers().pasid_valid


def test_load_writes_the_number_and_valid():
    regs = X86Registers()
    regs.load(0x12345)
    assert regs.ia32_pasid == 0x8001_2345
    assert regs.pasid_valid


def test_load_of_a_number_too_wide_leaves_the_register_alone():
    regs = X86Registers(0x8000_0007)
    with pytest.raises(ValueError, match=r"^PASID 0x100000 does not fit bits 19:0$"):
        regs.load(0x100000)
    assert regs.ia32_pasid == 0x8000_0007


def test_init_makes_the_pasid_invalid():
    regs = X86Registers(0x8001_2345)
    regs.init()
    assert regs == X86Registers(0)


def test_a_number_without_bit_31_is_not_valid():
    assert not X86Registers(0x0001_2345).pasid_valid


# ENQCMD


def test_enqcmd_writes_the_pasid_of_the_register_to_dword_0():
    store = x86(ENQCMD, descriptor(rest=b"work"), ia32_pasid=0x8001_2345)
    assert isinstance(store, Store)
    assert store.data == bytes.fromhex("45230100") + b"work" + bytes(56)  # golden: 0x00012345
    assert store.pasid == 0x12345


def test_enqcmd_with_valid_0_is_gp():
    assert x86(ENQCMD, ia32_pasid=0x0001_2345) == gp("IA32_PASID.Valid (bit 31) is 0")


def test_enqcmd_with_pasid_0_and_valid_executes():
    store = x86(ENQCMD, ia32_pasid=0x8000_0000)
    assert store == Store(bytes(SIZE), posted=False)


@pytest.mark.parametrize("bit", range(32))
def test_enqcmd_with_any_of_source_bits_31_0_is_gp(bit):
    assert x86(ENQCMD, (1 << bit).to_bytes(SIZE, "little")) == gp("source bits 31:0 are not zero")


def test_enqcmd_sends_source_bits_511_32_as_they_are():
    store = x86(ENQCMD, bytes(4) + b"\xff" * 60)
    assert isinstance(store, Store)
    assert store.data[4:] == b"\xff" * 60


@pytest.mark.parametrize("privileged", [False, True])
def test_enqcmd_sends_priv_0_at_any_cpl(privileged):
    store = x86(ENQCMD, privileged=privileged)
    assert isinstance(store, Store)
    assert not store.privileged


def test_enqcmd_sends_none_of_the_reserved_bits_of_the_register():
    store = x86(ENQCMD, ia32_pasid=0xFFFF_FFFF_FFF1_2345)
    assert isinstance(store, Store)
    assert store.data[:4] == bytes.fromhex("45230100")


@pytest.mark.parametrize(
    ("wrong", "how"),
    [
        ("source bits 31:0 are not zero", {"source": descriptor(pasid=1)}),
        ("destination is not 64-byte aligned", {"destination": 32}),
    ],
)
def test_valid_is_named_only_where_loading_the_register_is_enough(wrong, how):
    # Another cause stays a #GP after the register is loaded (cases D3, D9).
    assert x86(ENQCMD, ia32_pasid=0, **how) == gp(wrong)
    assert x86(ENQCMD, ia32_pasid=0x8000_0001, **how) == gp(wrong)


@given(source=sources | sources_from_32, pasid=pasids, privileged=st.booleans())
def test_user_data_can_never_choose_the_pasid_of_enqcmd(source, pasid, privileged):
    outcome = x86(ENQCMD, source, ia32_pasid=ia32_pasid(pasid), privileged=privileged)
    if source[:4] == bytes(4):
        assert outcome == Store(pasid.to_bytes(4, "little") + source[4:], posted=False)
    else:
        assert outcome == gp("source bits 31:0 are not zero")


# ENQCMDS


def test_enqcmds_sends_pasid_and_priv_of_the_source():
    source = descriptor(pasid=0x12345, rest=b"work", privileged=True)
    store = x86(ENQCMDS, source, ia32_pasid=0x8000_0007, privileged=True)
    assert store == Store(bytes.fromhex("45230180") + b"work" + bytes(56), posted=False)


def test_enqcmds_does_not_need_a_valid_register():
    assert isinstance(x86(ENQCMDS, ia32_pasid=0, privileged=True), Store)


def test_enqcmds_above_cpl_0_is_gp():
    assert x86(ENQCMDS) == gp("CPL is not 0")


@pytest.mark.parametrize("bit", range(20, 31))
def test_enqcmds_with_any_of_source_bits_30_20_is_gp(bit):
    source = (1 << bit).to_bytes(SIZE, "little")
    assert x86(ENQCMDS, source, privileged=True) == gp("source bits 30:20 are not zero")


@pytest.mark.parametrize("bit", [0, 19, 31, 32])
def test_enqcmds_allows_the_bits_next_to_30_20(bit):
    source = (1 << bit).to_bytes(SIZE, "little")
    assert x86(ENQCMDS, source, privileged=True) == Store(source, posted=False)


# MOVDIR64B


@given(source=sources, register=st.integers(0, 2**64 - 1), privileged=st.booleans())
def test_movdir64b_carries_whatever_the_user_wrote(source, register, privileged):
    outcome = x86(MOVDIR64B, source, ia32_pasid=register, privileged=privileged)
    assert outcome == Store(source, posted=True)


# x86 in common


@pytest.mark.parametrize("instruction", X86_INSTRUCTIONS)
@pytest.mark.parametrize("destination", [1, 32, 63, 65])
def test_x86_destination_not_aligned_is_gp(instruction, destination):
    outcome = x86(instruction, privileged=True, destination=destination)
    assert outcome == gp("destination is not 64-byte aligned")


@pytest.mark.parametrize("instruction", X86_INSTRUCTIONS)
@pytest.mark.parametrize("destination", [0, 64, 0xFFFF_FFFF_FFFF_FFC0])
def test_x86_destination_aligned_executes(instruction, destination):
    assert isinstance(x86(instruction, privileged=True, destination=destination), Store)


@pytest.mark.parametrize("instruction", [ENQCMD, ENQCMDS])
def test_without_the_enqcmd_feature_both_are_ud(instruction):
    outcome = x86(instruction, cpu=X86Cpu(enqcmd=False, movdir64b=True), privileged=True)
    assert outcome == CpuException("#UD", "CPUID.(7,0):ECX.ENQCMD (bit 29) is 0")


def test_without_the_movdir64b_feature_it_is_ud():
    outcome = x86(MOVDIR64B, cpu=X86Cpu(enqcmd=True, movdir64b=False))
    assert outcome == CpuException("#UD", "CPUID.(7,0):ECX.MOVDIR64B (bit 28) is 0")


def test_ud_comes_before_every_gp():
    outcome = x86(ENQCMDS, EVERYTHING_ONE, cpu=X86Cpu(), destination=1)
    assert isinstance(outcome, CpuException)
    assert outcome.name == "#UD"


@pytest.mark.parametrize("instruction", ARM64_INSTRUCTIONS)
def test_an_arm64_instruction_on_x86_is_ud(instruction):
    outcome = x86(instruction, privileged=True)
    assert outcome == CpuException("#UD", f"{instruction.name} is not an x86 instruction")


# ST64BV0


def test_st64bv0_writes_accdata_el1_to_dword_0():
    store = arm64(ST64BV0, EVERYTHING_ONE, accdata_el1=0x12345)
    assert store == Store(bytes.fromhex("45230100") + b"\xff" * 60, posted=False)


def test_st64bv0_sends_all_32_bits_of_accdata_el1_and_no_more():
    store = arm64(ST64BV0, accdata_el1=0x1111_1111_8FF1_2345)
    assert isinstance(store, Store)
    assert store.data == bytes.fromhex("4523f18f") + bytes(60)


def test_st64bv0_has_no_valid_bit():
    # The failing sibling on x86 is ENQCMD with IA32_PASID = 0.
    assert arm64(ST64BV0, EVERYTHING_ONE, accdata_el1=0) == Store(bytes(4) + b"\xff" * 60, posted=False)


@given(source=sources, accdata=st.integers(0, 2**32 - 1), privileged=st.booleans())
def test_user_data_can_never_choose_the_pasid_of_st64bv0(source, accdata, privileged):
    outcome = arm64(ST64BV0, source, accdata_el1=accdata, privileged=privileged)
    assert outcome == Store(accdata.to_bytes(4, "little") + source[4:], posted=False)


# ST64B, ST64BV


@given(source=sources, accdata=st.integers(0, 2**64 - 1), privileged=st.booleans())
def test_st64b_carries_whatever_the_user_wrote(source, accdata, privileged):
    assert arm64(ST64B, source, accdata_el1=accdata, privileged=privileged) == Store(source, posted=True)


@given(source=sources, accdata=st.integers(0, 2**64 - 1), privileged=st.booleans())
def test_st64bv_carries_whatever_the_user_wrote(source, accdata, privileged):
    assert arm64(ST64BV, source, accdata_el1=accdata, privileged=privileged) == Store(source, posted=False)


# arm64 in common

TRAPS = [
    (ST64B, "en_als", "SCTLR_EL1.EnALS (bit 56) is 0", 2),
    (ST64BV, "en_asr", "SCTLR_EL1.EnASR (bit 54) is 0", 0),
    (ST64BV0, "en_as0", "SCTLR_EL1.EnAS0 (bit 55) is 0", 1),
]


@pytest.mark.parametrize(("instruction", "enable", "reason", "iss"), TRAPS)
def test_el0_traps_without_its_own_enable(instruction, enable, reason, iss):
    cpu = dataclasses.replace(ARM64, **{enable: False})
    assert arm64(instruction, cpu=cpu) == CpuException("LS64 trap", reason, ec=0x0A, iss=iss)


@pytest.mark.parametrize(("instruction", "enable"), [trap[:2] for trap in TRAPS])
def test_el0_needs_only_its_own_enable(instruction, enable):
    assert isinstance(arm64(instruction, cpu=Arm64Cpu(ls64=3, **{enable: True})), Store)


@pytest.mark.parametrize("instruction", ARM64_INSTRUCTIONS)
def test_el1_needs_no_enable(instruction):
    assert isinstance(arm64(instruction, cpu=Arm64Cpu(ls64=3), privileged=True), Store)


def test_under_linux_7_3_only_st64b_executes_at_el0():
    outcomes = [type(arm64(instruction, cpu=LINUX_7_3)) for instruction in ARM64_INSTRUCTIONS]
    assert outcomes == [Store, CpuException, CpuException]  # case D10


@pytest.mark.parametrize(
    ("ls64", "executes"),
    [(0, []), (1, [ST64B]), (2, [ST64B, ST64BV]), (3, [ST64B, ST64BV, ST64BV0])],
)
def test_ls64_decides_which_instructions_exist(ls64, executes):
    cpu = dataclasses.replace(ARM64, ls64=ls64)
    assert [i for i in ARM64_INSTRUCTIONS if isinstance(arm64(i, cpu=cpu), Store)] == executes


@pytest.mark.parametrize(("instruction", "needed"), [(ST64B, 1), (ST64BV, 2), (ST64BV0, 3)])
@pytest.mark.parametrize("privileged", [False, True])
def test_below_its_ls64_an_instruction_is_undefined(instruction, needed, privileged):
    cpu = dataclasses.replace(ARM64, ls64=needed - 1)
    reason = f"ID_AA64ISAR1_EL1.LS64 is {needed - 1}, {instruction.name} needs {needed}"
    assert arm64(instruction, cpu=cpu, privileged=privileged) == CpuException("UNDEFINED", reason)


@pytest.mark.parametrize("ls64", [-1, 4])
def test_ls64_outside_0_3_is_refused(ls64):
    with pytest.raises(ValueError, match=rf"^Arm64Cpu\.ls64={ls64} is not 0\.\.3$"):
        Arm64Cpu(ls64=ls64)


@pytest.mark.parametrize("instruction", ARM64_INSTRUCTIONS)
@pytest.mark.parametrize("destination", [1, 32, 63, 65])
def test_arm64_destination_not_aligned_is_an_alignment_fault(instruction, destination):
    outcome = arm64(instruction, destination=destination)
    assert outcome == CpuException("alignment fault", "destination is not 64-byte aligned")


@pytest.mark.parametrize("instruction", ARM64_INSTRUCTIONS)
def test_arm64_destination_aligned_executes(instruction):
    assert isinstance(arm64(instruction, destination=64), Store)


def test_arm64_undefined_comes_before_the_trap():
    outcome = arm64(ST64BV0, cpu=Arm64Cpu(), destination=1)
    assert isinstance(outcome, CpuException)
    assert outcome.name == "UNDEFINED"


def test_arm64_trap_comes_before_the_alignment_fault():
    outcome = arm64(ST64BV0, cpu=Arm64Cpu(ls64=3), destination=1)
    assert isinstance(outcome, CpuException)
    assert outcome.name == "LS64 trap"


@pytest.mark.parametrize("instruction", X86_INSTRUCTIONS)
def test_an_x86_instruction_on_arm64_is_undefined(instruction):
    outcome = arm64(instruction, privileged=True)
    assert outcome == CpuException("UNDEFINED", f"{instruction.name} is not an arm64 instruction")


# Both architectures


@pytest.mark.parametrize("size", [0, 63, 65])
def test_a_source_of_another_size_is_refused(size):
    message = rf"^the source operand is {size} bytes, not 64$"
    for instruction in Instruction:
        with pytest.raises(ValueError, match=message):
            x86(instruction, bytes(size))
        with pytest.raises(ValueError, match=message):
            arm64(instruction, bytes(size))


def test_a_cpu_without_any_feature_executes_nothing():
    for instruction in Instruction:
        assert isinstance(x86(instruction, cpu=X86Cpu(), privileged=True), CpuException)
        assert isinstance(arm64(instruction, cpu=Arm64Cpu(), privileged=True), CpuException)


@given(instruction=st.sampled_from(Instruction), value=st.integers(0, 2**64 - 1), source=sources)
def test_no_instruction_changes_the_registers(instruction, value, source):
    x86_regs, arm64_regs = X86Registers(value), Arm64Registers(value)
    X86.execute(instruction, x86_regs, source)
    ARM64.execute(instruction, arm64_regs, source)
    assert x86_regs == X86Registers(value)
    assert arm64_regs == Arm64Registers(value)


# Store and descriptor


@pytest.mark.parametrize(
    ("dword0", "pasid", "privileged"),
    [(0x0001_2345, 0x12345, False), (0x8001_2345, 0x12345, True), (0x7FF0_0000, 0, False)],
)
def test_a_device_reads_pasid_from_bits_19_0_and_priv_from_bit_31(dword0, pasid, privileged):
    store = Store(dword0.to_bytes(SIZE, "little"), posted=False)
    assert (store.pasid, store.privileged) == (pasid, privileged)


def test_a_store_is_64_bytes():
    with pytest.raises(ValueError, match=r"^the data of a store is 32 bytes, not 64$"):
        Store(bytes(32), posted=True)


def test_a_descriptor_is_dword_0_then_the_rest_then_zeros():
    assert descriptor() == bytes(64)
    assert descriptor(0x12345, b"\x01") == bytes.fromhex("4523010001") + bytes(59)
    assert descriptor(0x12345, b"\xff" * 60, privileged=True) == bytes.fromhex("45230180") + b"\xff" * 60


def test_a_descriptor_with_more_than_60_bytes_is_refused():
    with pytest.raises(ValueError, match=r"^the rest of the descriptor is 61 bytes, at most 60 fit$"):
        descriptor(rest=bytes(61))


def test_a_descriptor_with_a_pasid_too_wide_is_refused():
    with pytest.raises(ValueError, match=r"^PASID 0x100000 does not fit bits 19:0$"):
        descriptor(pasid=0x100000)


# what comes back


@pytest.mark.parametrize(("answer", "flag"), [(Answer.ACCEPTED, False), (Answer.RETRY, True)])
def test_retry_is_zf_1(answer, flag):
    assert zero_flag(answer) is flag


@pytest.mark.parametrize(("answer", "status"), [(Answer.ACCEPTED, 0), (Answer.RETRY, 1), (None, 0xFFFF_FFFF_FFFF_FFFF)])
def test_xs_tells_the_answer_and_all_ones_that_there_is_none(answer, status):
    assert st64bv_status(answer) == status
