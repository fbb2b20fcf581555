"""Family D of the core cases: who may send a PASID with a store.

`X86Os` and `Arm64Os` execute one instruction of user space; a trap goes to the kernel, which fixes it or signals.
"""

from __future__ import annotations

import pytest

from pasidlab.errors import Errno
from pasidlab.events import RegisterLoaded
from pasidlab.hw.cpu import Arm64Cpu, Instruction, Store, X86Cpu, descriptor
from pasidlab.linux.kernel import Arch
from pasidlab.linux.prctl import prctl_enable_tagged_addr
from pasidlab.linux.profiles import V7_3
from pasidlab.linux.structs import (
    IOMMU_PASID_INVALID,
)
from pasidlab.linux.sva import (
    iommu_sva_bind_device,
    iommu_sva_bind_device_pasid,
    iommu_sva_unbind_device,
    mm_get_enqcmd_pasid,
)
from pasidlab.linux.task import clone_vm, do_exit, exec_, fork
from pasidlab.linux.traps import Arm64Os, X86Os, try_fixup_enqcmd_gp
from pasidlab.rules import Signal
from pasidlab.schemes import V2, Hybrid, Mainline, Options, Rfc
from tests.rig import Rig, bound, refused, signalled

ENQCMD, ENQCMDS, MOVDIR64B = Instruction.ENQCMD, Instruction.ENQCMDS, Instruction.MOVDIR64B
ST64B, ST64BV, ST64BV0 = Instruction.ST64B, Instruction.ST64BV, Instruction.ST64BV0
SIGSEGV, SIGILL = Signal.SIGSEGV, Signal.SIGILL

X86 = X86Os()
ARM64 = Arm64Os(Arm64Cpu(ls64=3, en_als=True))  # Linux 7.3: EnALS set, EnASR cleared, EnAS0 never set
FUTURE = Arm64Os(Arm64Cpu(ls64=3, en_als=True), accdata=True)
WORK = descriptor(rest=b"work")
FORGED = descriptor(7, b"work")
VALID = 0x8000_0000


def x86_rig(scheme=None, profile=V7_3):
    return Rig(profile, scheme, arch=Arch.X86)


def bound_task(rig, name="a"):
    """A process bound to one device."""
    task = rig.process(name)
    bound(iommu_sva_bind_device(rig.device(f"dev of {name}", 16), task.mm))
    return task


def enqcmd(task, source=WORK, instruction=ENQCMD):
    return X86.execute(task, instruction, source)


# x86


def test_d1_the_first_enqcmd_of_a_bound_process_is_fixed_up_and_carries_the_number():
    rig = x86_rig()
    task = bound_task(rig)
    rig.forget()
    assert task.x86.ia32_pasid == 0
    store = enqcmd(task)
    assert store == Store(descriptor(1, b"work"), posted=False)
    assert store.pasid == 1
    assert task.x86.ia32_pasid == VALID | 1
    assert rig.seen == [RegisterLoaded("a", "IA32_PASID", VALID | 1)]


def test_d1_the_second_enqcmd_needs_no_fix_up():
    rig = x86_rig()
    task = bound_task(rig)
    enqcmd(task)
    rig.forget()
    assert enqcmd(task).pasid == 1
    assert rig.seen == []


def test_d2_without_a_bind_enqcmd_is_sigsegv():
    task = x86_rig().process("a")
    why = signalled(enqcmd(task), SIGSEGV, "traps.gp-no-number")
    assert why == (
        "ENQCMD: IA32_PASID.Valid (bit 31) is 0, and process a has no number for it: no normal bind has succeeded"
    )
    assert task.x86.ia32_pasid == 0


def test_d3_another_gp_is_retried_once_for_nothing():
    task = bound_task(x86_rig())
    why = signalled(enqcmd(task, instruction=ENQCMDS), SIGSEGV, "traps.gp-already-activated")
    assert why == ("ENQCMDS: CPL is not 0, and IA32_PASID of a was loaded once already, so the #GP is a real one")
    assert task.x86.ia32_pasid == VALID | 1
    assert task.pasid_activated


def test_d3_the_handler_does_not_look_at_the_instruction():
    task = bound_task(x86_rig())
    assert try_fixup_enqcmd_gp(task)
    assert not try_fixup_enqcmd_gp(task)


def test_d4_a_second_thread_takes_its_own_gp_and_gets_the_same_number():
    rig = x86_rig()
    task = bound_task(rig)
    enqcmd(task)
    thread = clone_vm(task, "thread", 2)
    assert thread.x86.ia32_pasid == 0
    rig.forget()
    assert enqcmd(thread).pasid == 1
    assert rig.seen == [RegisterLoaded("thread", "IA32_PASID", VALID | 1)]


def test_d5_a_forked_child_has_no_number():
    task = bound_task(x86_rig())
    enqcmd(task)
    child = fork(task, "child", 2)
    assert child.x86.ia32_pasid == 0
    assert "process child has no number" in signalled(enqcmd(child), SIGSEGV, "traps.gp-no-number")


def test_d5_a_forked_child_works_after_a_bind_of_its_own():
    rig = x86_rig()
    task = bound_task(rig)
    enqcmd(task)
    child = fork(task, "child", 2)
    bound(iommu_sva_bind_device(rig.device("dev", 16), child.mm))
    assert enqcmd(child).pasid == 2


def used_then_executed(rig):
    """A task that used ENQCMD, called exec and bound again."""
    task = bound_task(rig)
    enqcmd(task)
    exec_(task, "a, executed")
    bound(iommu_sva_bind_device(rig.device("dev", 16), task.mm))
    return task


def test_d6_after_exec_the_gp_is_not_fixed_up_again():
    task = used_then_executed(x86_rig())
    assert task.x86.ia32_pasid == 0
    assert mm_get_enqcmd_pasid(task.mm) != IOMMU_PASID_INVALID
    why = signalled(enqcmd(task), SIGSEGV, "traps.gp-already-activated")
    assert "IA32_PASID of a was loaded once already" in why


def test_d6_a_new_thread_of_the_executed_task_works():
    task = used_then_executed(x86_rig())
    assert isinstance(enqcmd(clone_vm(task, "thread", 2)), Store)


def test_d6_a_forked_child_of_the_executed_task_works_after_a_bind():
    rig = x86_rig()
    child = fork(used_then_executed(rig), "child", 2)
    bound(iommu_sva_bind_device(rig.device("other", 16), child.mm))
    assert isinstance(enqcmd(child), Store)


def test_d6_without_the_quirk_the_task_works():
    task = used_then_executed(x86_rig(profile=V7_3.with_switches({"exec_keeps_pasid_activated": False})))
    assert isinstance(enqcmd(task), Store)


def test_d7_after_unbind_the_register_is_valid_and_the_number_is_not_given_away():
    rig = x86_rig()
    dev, task = rig.device("dev", 16), rig.process("a")
    bond = bound(iommu_sva_bind_device(dev, task.mm))
    enqcmd(task)
    iommu_sva_unbind_device(bond)
    assert task.x86.ia32_pasid == VALID | 1
    assert bound(iommu_sva_bind_device(dev, rig.mm("b"))).pasid == 2


def test_d7_the_number_is_given_away_after_exit():
    rig = x86_rig()
    dev, task = rig.device("dev", 16), rig.process("a")
    iommu_sva_unbind_device(bound(iommu_sva_bind_device(dev, task.mm)))
    do_exit(task)
    assert bound(iommu_sva_bind_device(dev, rig.mm("b"))).pasid == 1


def test_d7_a_process_that_unbound_before_its_first_enqcmd_still_gets_its_number():
    rig = x86_rig()
    task = rig.process("a")
    iommu_sva_unbind_device(bound(iommu_sva_bind_device(rig.device("dev", 16), task.mm)))
    assert enqcmd(task).pasid == 1


def test_d8_enqcmd_to_either_of_two_devices_carries_the_same_number():
    rig = x86_rig()
    rig.hold(1, 2)
    task = rig.process("a")
    bonds = [bound(iommu_sva_bind_device(rig.device(name, 16), task.mm)) for name in ("dsa", "iaa")]
    assert [bond.pasid for bond in bonds] == [3, 3]
    assert enqcmd(task).pasid == 3


def test_d9_enqcmd_does_not_let_user_space_choose_the_pasid():
    task = bound_task(x86_rig())
    why = signalled(enqcmd(task, FORGED), SIGSEGV, "traps.gp-already-activated")
    assert why.startswith("ENQCMD: source bits 31:0 are not zero")
    assert task.x86.ia32_pasid == VALID | 1  # the one pointless fix-up
    assert enqcmd(task).pasid == 1


def test_d9_movdir64b_carries_what_user_space_wrote_but_posted():
    task = x86_rig().process("a")
    assert enqcmd(task, FORGED, MOVDIR64B) == Store(FORGED, posted=True)


def test_d9_st64b_carries_what_user_space_wrote_but_posted():
    task = Rig().process("a")
    assert ARM64.execute(task, ST64B, FORGED) == Store(FORGED, posted=True)


def test_d9_st64bv_would_carry_what_user_space_wrote_if_it_were_emulated():
    task = Rig().process("a")
    emulating = Arm64Os(ARM64.cpu, emulate_st64bv=True)
    assert emulating.execute(task, ST64BV, FORGED) == Store(FORGED, posted=False)


def test_d9_st64bv0_replaces_the_low_32_bits_by_accdata():
    rig = Rig()
    rig.kernel.enqcmd_like = True
    task = bound_task(rig)
    assert FUTURE.execute(task, ST64BV0, FORGED) == Store(descriptor(1, b"work"), posted=False)


def test_a_cpu_without_enqcmd_raises_sigill():
    task = bound_task(x86_rig())
    why = signalled(X86Os(X86Cpu(movdir64b=True)).execute(task, ENQCMD, WORK), SIGILL, "traps.undefined")
    assert why == "ENQCMD: CPUID.(7,0):ECX.ENQCMD (bit 29) is 0"


def test_a_kernel_without_enqcmd_fixes_nothing_up():
    rig = x86_rig()
    rig.kernel.enqcmd_like = False
    task = bound_task(rig)
    assert not try_fixup_enqcmd_gp(task)
    assert not task.pasid_activated


def test_an_arm64_instruction_is_undefined_on_x86():
    why = signalled(enqcmd(x86_rig().process("a"), WORK, ST64B), SIGILL, "traps.undefined")
    assert why == "ST64B: ST64B is not an x86 instruction"


def test_only_a_cpu_with_enqcmd_is_enqcmd_like():
    assert X86Os().enqcmd_like
    assert not X86Os(X86Cpu(movdir64b=True)).enqcmd_like


# arm64


def test_d10_st64bv0_is_trapped_today_and_accdata_never_written():
    rig = Rig()
    task = bound_task(rig)
    rig.forget()
    why = signalled(ARM64.execute(task, ST64BV0, WORK), SIGILL, "traps.ls64-trapped")
    assert why == "ST64BV0: SCTLR_EL1.EnAS0 (bit 55) is 0; Linux keeps it off at EL0"
    assert task.arm64.accdata_el1 == 0
    assert rig.seen == []


def test_d10_st64bv_is_trapped_today():
    why = signalled(ARM64.execute(Rig().process("a"), ST64BV, WORK), SIGILL, "traps.ls64-trapped")
    assert why == "ST64BV: SCTLR_EL1.EnASR (bit 54) is 0; Linux keeps it off at EL0"


def test_d10_st64b_is_open():
    assert ARM64.execute(Rig().process("a"), ST64B, WORK) == Store(WORK, posted=True)


def test_a_cpu_without_accdata_has_no_st64bv0():
    why = signalled(Arm64Os().execute(Rig().process("a"), ST64BV0, WORK), SIGILL, "traps.undefined")
    assert why == "ST64BV0: ID_AA64ISAR1_EL1.LS64 is 1, ST64BV0 needs 3"


def test_arm64_is_enqcmd_like_only_with_accdata_and_a_kernel_that_loads_it():
    assert not ARM64.enqcmd_like
    assert FUTURE.enqcmd_like
    assert not Arm64Os(Arm64Cpu(ls64=2), accdata=True).enqcmd_like


# A future arm64 kernel (model policy, not Linux)


def test_a_future_arm64_loads_accdata_on_the_first_trap():
    rig = Rig()
    task = bound_task(rig)
    rig.forget()
    assert FUTURE.execute(task, ST64BV0, WORK).pasid == 1
    assert rig.seen == [RegisterLoaded("a", "ACCDATA_EL1", 1)]
    assert FUTURE.execute(task, ST64BV0, WORK).pasid == 1
    assert len(rig.seen) == 1


def test_a_future_arm64_blocks_an_unbound_process():
    why = signalled(FUTURE.execute(Rig().process("a"), ST64BV0, WORK), SIGILL, "traps.accdata-no-number")
    assert why == "ST64BV0: process a has no number for it: no normal bind has succeeded"


@pytest.mark.parametrize("new_task", [clone_vm, fork])
def test_a_future_arm64_gives_a_new_task_no_accdata(new_task):
    task = bound_task(Rig())
    FUTURE.execute(task, ST64BV0, WORK)
    child = new_task(task, "child", 2)
    assert child.arm64.accdata_el1 == 0
    assert not child.st64bv0_enabled


def test_a_future_arm64_takes_accdata_away_at_exec():
    rig = Rig()
    task = bound_task(rig)
    FUTURE.execute(task, ST64BV0, WORK)
    exec_(task, "a, executed")
    signalled(FUTURE.execute(task, ST64BV0, WORK), SIGILL, "traps.accdata-no-number")
    bound(iommu_sva_bind_device(rig.device("dev", 16), task.mm))
    assert isinstance(FUTURE.execute(task, ST64BV0, WORK), Store)


def test_a_future_arm64_with_emulation_still_traps_st64bv0():
    task = Rig().process("a")
    signalled(Arm64Os(ARM64.cpu, emulate_st64bv=True).execute(task, ST64BV0, WORK), SIGILL, "traps.ls64-trapped")


# Each design's answer to "which number does ENQCMD carry"


@pytest.mark.parametrize("scheme", [V2, Hybrid])
def test_a_driver_numbered_bind_never_enables_enqcmd(scheme):
    rig = x86_rig(scheme())
    task = rig.process("a")
    bound(iommu_sva_bind_device_pasid(rig.device("dev", 16), task.mm, 9))
    assert mm_get_enqcmd_pasid(task.mm) == IOMMU_PASID_INVALID
    signalled(enqcmd(task), SIGSEGV, "traps.gp-no-number")
    assert task.x86.ia32_pasid == 0


def test_v2_bars_enqcmd_for_good_once_the_driver_gave_a_number():
    rig = x86_rig(V2())
    dev, task = rig.device("dev", 16), rig.process("a")
    iommu_sva_unbind_device(bound(iommu_sva_bind_device_pasid(dev, task.mm, 9)))
    why = refused(iommu_sva_bind_device(dev, task.mm), Errno.EBUSY, "v2.mode-differs")
    assert why == (
        "process a was bound with driver numbers first, which excludes core numbers for its life, even after unbind"
    )
    signalled(enqcmd(task), SIGSEGV, "traps.gp-no-number")


def test_hybrid_carries_the_global_number_beside_local_ones():
    rig = x86_rig(Hybrid())
    task = rig.process("a")
    bound(iommu_sva_bind_device_pasid(rig.device("narrow", 2), task.mm, 3))
    bound(iommu_sva_bind_device(rig.device("dsa", 16), task.mm))
    assert enqcmd(task).pasid == 1


def test_hybrid_keeps_the_number_of_enqcmd_after_unbind():
    rig = x86_rig(Hybrid())
    task = rig.process("a")
    iommu_sva_unbind_device(bound(iommu_sva_bind_device(rig.device("dev", 16), task.mm)))
    assert enqcmd(task).pasid == 1


@pytest.mark.parametrize(("rfc_enqcmd", "number"), [("first", 1), ("none", IOMMU_PASID_INVALID)])
def test_rfc_offers_the_first_local_number_or_none(rfc_enqcmd, number):
    rig = x86_rig(Rfc(Options(rfc_enqcmd=rfc_enqcmd)))
    task = rig.process("a")
    bound(iommu_sva_bind_device(rig.device("dev", 2), task.mm))
    assert mm_get_enqcmd_pasid(task.mm) == number


@pytest.mark.parametrize(
    ("scheme", "number"), [(Mainline, 1), (V2, IOMMU_PASID_INVALID), (Hybrid, IOMMU_PASID_INVALID)]
)
def test_only_mainline_offers_the_number_of_a_failed_first_bind(scheme, number):
    rig = x86_rig(scheme())
    dev, task = rig.device("dev", 16), rig.process("a")
    rig.driver.fail_set[dev] = Errno.EIO
    refused(iommu_sva_bind_device(dev, task.mm), Errno.EIO, "driver.set-failed")
    assert mm_get_enqcmd_pasid(task.mm) == number


# What is no matter of numbers


def test_a_misaligned_store_is_sigbus_on_arm64_and_sigsegv_on_x86():
    rig = Rig()
    task = rig.process("a")
    arm = Arm64Os().execute(task, Instruction.ST64B, descriptor(), destination=4)
    assert (arm.result, arm.rule.id) == ("SIGBUS", "traps.misaligned")
    assert arm.why == "ST64B: destination is not 64-byte aligned"
    x86 = X86Os(X86Cpu(movdir64b=True)).execute(task, Instruction.MOVDIR64B, descriptor(), destination=4)
    assert (x86.result, x86.rule.id) == ("SIGSEGV", "traps.gp-other")


@pytest.mark.parametrize("bits", [0, 7])
def test_lam_takes_one_to_six_bits(bits):
    rig = Rig(arch=Arch.X86)
    refusal = prctl_enable_tagged_addr(rig.process("a"), bits)
    assert (refusal.errno, refusal.rule.id) == (Errno.EINVAL, "lam.bits")
    assert refusal.why == f"{bits} tag bits: 1..6 are possible"
