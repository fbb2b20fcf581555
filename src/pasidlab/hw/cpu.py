"""How a CPU submits 64 bytes of work to a device, and which PASID the bytes carry.

One instruction runs on the register state of one task. It ends as a 64-byte `Store` that leaves the CPU, or
as a `CpuException`; registers never change. What the operating system does about an exception, and when it
writes the registers, is not known here.

What separates the instructions is who chooses data bits 31:0, where a device looks for the PASID:

| instruction | bits 31:0 come from | who writes that | bus |
|---|---|---|---|
| ENQCMD | IA32_PASID[19:0], PRIV 0 | system software, for the task | non-posted |
| ENQCMDS | the source (CPL 0 only) | system software, for this command | non-posted |
| MOVDIR64B | the source | the program | posted |
| ST64B | the source | the program | posted |
| ST64BV | the source | the program | non-posted |
| ST64BV0 | ACCDATA_EL1[31:0] | system software, for the task | non-posted |

The answer to a non-posted store is the device's: `Answer`. `zero_flag()` and `st64bv_status()` say how a program
sees it.

Sources: the ENQCMD, ENQCMDS and MOVDIR64B pages of the Intel SDM, volume 2,
and the Arm ARM (DDI 0487) on ST64B, ST64BV, ST64BV0, ACCDATA_EL1, SCTLR_EL1 and ESR_EL1. Bit numbers count
from bit 0 of byte 0, little-endian.

Not modelled: VMX PASID translation (exit reasons 72 and 73) and any other virtualization; the EL2 and EL3
enables and traps (HCRX_EL2, SCR_EL3, HFGRTR/HFGWTR_EL2); the XSAVE layout; WRMSR and MSR to the registers,
with their own faults; reading the source, hence page and segment faults; memory types, and addresses beyond
64-byte alignment; operand encodings (Xt even and at most 22); big-endian data on arm64; LD64B;
ID_AA64ISAR1_EL1.LS64 = 4 (LS64WB).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SIZE: Final = 64
"""Bytes moved by every instruction here, and the alignment that each demands of its destination."""

MAX_PASID: Final = 0xF_FFFF
"""The largest PASID: 20 bits."""

VALID: Final = 1 << 31
"""IA32_PASID.Valid."""

PRIV: Final = 1 << 31
"""Data bit 31 of an enqueue store: 0 user, 1 supervisor."""


class Instruction(StrEnum):
    """The 64-byte stores: three of x86, three of arm64."""

    ENQCMD = "enqcmd"
    ENQCMDS = "enqcmds"
    MOVDIR64B = "movdir64b"
    ST64B = "st64b"
    ST64BV = "st64bv"
    ST64BV0 = "st64bv0"


def ia32_pasid(pasid: int) -> int:
    """IA32_PASID (MSR 0xD93) for `pasid`: bits 19:0 the PASID, bit 31 Valid, the others reserved, 0."""
    return _pasid_bits(pasid) | VALID


def descriptor(pasid: int = 0, rest: bytes = b"", *, privileged: bool = False) -> bytes:
    """A 64-byte source operand: dword 0 with `pasid` and PRIV, then up to 60 bytes `rest`, then zeros."""
    if len(rest) > SIZE - 4:
        raise ValueError(f"the rest of the descriptor is {len(rest)} bytes, at most {SIZE - 4} fit")
    dword0 = _pasid_bits(pasid) | (PRIV if privileged else 0)
    return _with_dword0(bytes(4) + rest.ljust(SIZE - 4, b"\0"), dword0)


# What an instruction ends as.


@dataclass(frozen=True, slots=True)
class Store:
    """One 64-byte write on the bus.

    A `posted` write gets no answer; the device answers a non-posted one.
    """

    data: bytes
    posted: bool

    def __post_init__(self) -> None:
        _check_size("data of a store", self.data)

    @property
    def pasid(self) -> int:
        """Data bits 19:0: the PASID, for a device that takes it from the command (SDM, ENQCMD)."""
        return _dword0(self.data) & MAX_PASID

    @property
    def privileged(self) -> bool:
        """Data bit 31: PRIV, for a device that takes it from the command (SDM, ENQCMD)."""
        return bool(_dword0(self.data) & PRIV)


class Answer(Enum):
    """How a device answers a non-posted write: it took the command, or the program shall try again."""

    ACCEPTED = "accepted"
    RETRY = "retry"


XS_UNSUPPORTED: Final = (1 << 64) - 1
"""Xs of ST64BV and ST64BV0 when the target does not support such a store."""


def zero_flag(answer: Answer) -> bool:
    """RFLAGS.ZF after ENQCMD or ENQCMDS: 1 is Retry; CF, PF, AF, OF and SF are 0."""
    return answer is Answer.RETRY


def st64bv_status(answer: Answer | None) -> int:
    """Xs after ST64BV or ST64BV0; None: the target gave no answer, for it does not support such stores.

    All other values are the device's choice; here 0 is accepted and 1 is Retry.
    """
    return XS_UNSUPPORTED if answer is None else int(answer is Answer.RETRY)


@dataclass(frozen=True, slots=True)
class CpuException:
    """The instruction did not execute; `reason` is the check that failed, in one clause.

    `name` is "#GP(0)" or "#UD" on x86; "UNDEFINED", "LS64 trap" or "alignment fault" on arm64. Only an LS64
    trap has a syndrome here, the fields `ec` and `iss` of ESR_EL1 (0x0A; 0 ST64BV, 1 ST64BV0, 2 ST64B).
    """

    name: str
    reason: str
    ec: int | None = None
    iss: int | None = None


# x86: the PASID of ENQCMD is a register with a Valid bit.


@dataclass(slots=True)
class X86Registers:
    """The register of one task that ENQCMD reads: IA32_PASID, MSR 0xD93.

    It is XSAVES supervisor state (component 10): one value per task, whichever the device. Initially 0.
    """

    ia32_pasid: int = 0

    @property
    def pasid_valid(self) -> bool:
        """IA32_PASID.Valid, bit 31."""
        return bool(self.ia32_pasid & VALID)

    def load(self, pasid: int) -> None:
        """Write `pasid` and Valid, as system software does to let the task use ENQCMD."""
        self.ia32_pasid = ia32_pasid(pasid)

    def init(self) -> None:
        """Return to the initial state: no PASID, ENQCMD raises #GP(0)."""
        self.ia32_pasid = 0


@dataclass(frozen=True, slots=True)
class X86Cpu:
    """An x86 CPU, with CPUID.(7,0):ECX.ENQCMD (bit 29; ENQCMDS too) and ECX.MOVDIR64B (bit 28)."""

    enqcmd: bool = False
    movdir64b: bool = False

    def execute(
        self,
        instruction: Instruction,
        regs: X86Registers,
        source: bytes,
        privileged: bool = False,
        destination: int = 0,
    ) -> Store | CpuException:
        """Run `instruction` with 64 bytes `source` to the address `destination`, at CPL 0 if `privileged`.

        Software cannot see the order between the #GP checks: each is #GP(0). Here Valid comes last, so the
        reason names it only where loading IA32_PASID is enough to make the instruction execute.
        """
        _check_size("source operand", source)
        form = _X86_FORMS.get(instruction)
        if form is None:
            return CpuException("#UD", f"{instruction.name} is not an x86 instruction")
        if not form.supported(self):
            return CpuException("#UD", f"{form.feature} is 0")
        operands = _X86Operands(regs, _dword0(source), privileged, destination)
        for check in form.checks:
            if not check.passes(operands):
                return CpuException("#GP(0)", check.reason)
        data = _with_dword0(source, regs.ia32_pasid & MAX_PASID) if form.pasid_from_register else source
        return Store(data, posted=form.posted)


@dataclass(frozen=True, slots=True)
class _X86Operands:
    """All that a check may look at."""

    regs: X86Registers
    dword0: int  # of the source
    privileged: bool
    destination: int


@dataclass(frozen=True, slots=True)
class _X86Check:
    """A condition without which the instruction raises #GP(0)."""

    reason: str
    passes: Callable[[_X86Operands], bool]


@dataclass(frozen=True, slots=True)
class _X86Form:
    """One x86 instruction."""

    feature: str
    supported: Callable[[X86Cpu], bool]
    checks: tuple[_X86Check, ...]
    pasid_from_register: bool
    posted: bool


_CPL_0 = _X86Check("CPL is not 0", lambda op: op.privileged)
_ALIGNED = _X86Check(
    f"destination is not {SIZE}-byte aligned",
    lambda op: op.destination % SIZE == 0,
)
_DWORD0_ZERO = _X86Check("source bits 31:0 are not zero", lambda op: op.dword0 == 0)
_RESERVED_ZERO = _X86Check(
    "source bits 30:20 are not zero",
    lambda op: op.dword0 & ~(PRIV | MAX_PASID) == 0,
)
_PASID_VALID = _X86Check("IA32_PASID.Valid (bit 31) is 0", lambda op: op.regs.pasid_valid)

_X86_FORMS: Final[Mapping[Instruction, _X86Form]] = {
    Instruction.ENQCMD: _X86Form(
        feature="CPUID.(7,0):ECX.ENQCMD (bit 29)",
        supported=lambda cpu: cpu.enqcmd,
        checks=(_ALIGNED, _DWORD0_ZERO, _PASID_VALID),
        pasid_from_register=True,
        posted=False,
    ),
    Instruction.ENQCMDS: _X86Form(
        feature="CPUID.(7,0):ECX.ENQCMD (bit 29)",
        supported=lambda cpu: cpu.enqcmd,
        checks=(_CPL_0, _ALIGNED, _RESERVED_ZERO),
        pasid_from_register=False,
        posted=False,
    ),
    Instruction.MOVDIR64B: _X86Form(
        feature="CPUID.(7,0):ECX.MOVDIR64B (bit 28)",
        supported=lambda cpu: cpu.movdir64b,
        checks=(_ALIGNED,),
        pasid_from_register=False,
        posted=True,
    ),
}


# arm64: ST64BV0 takes 32 bits from a register that has no Valid bit.


@dataclass(slots=True)
class Arm64Registers:
    """The register of one task that ST64BV0 reads: ACCDATA_EL1, not accessible at EL0.

    Bits 31:0 all go to the device. There is no Valid bit: whatever is here is sent, 0 as well.
    """

    accdata_el1: int = 0


@dataclass(frozen=True, slots=True)
class Arm64Cpu:
    """An arm64 CPU, with ID_AA64ISAR1_EL1.LS64 and the three enables of SCTLR_EL1 for EL0.

    `ls64`: 0 none, 1 ST64B, 2 also ST64BV, 3 also ST64BV0 and ACCDATA_EL1. `en_als` (bit 56) enables ST64B,
    `en_asr` (bit 54) ST64BV, `en_as0` (bit 55) ST64BV0; EL1 needs none of them.
    """

    ls64: int = 0
    en_als: bool = False
    en_asr: bool = False
    en_as0: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.ls64 <= 3:
            raise ValueError(f"Arm64Cpu.ls64={self.ls64} is not 0..3")

    def execute(
        self,
        instruction: Instruction,
        regs: Arm64Registers,
        source: bytes,
        privileged: bool = False,
        destination: int = 0,
    ) -> Store | CpuException:
        """Run `instruction` with Xt..Xt+7 = `source` to `destination`, at EL1 if `privileged`, else EL0.

        Software sees the order of these checks, it is the Arm ARM's: UNDEFINED, then trap, then alignment.
        """
        _check_size("source operand", source)
        form = _ARM64_FORMS.get(instruction)
        if form is None:
            return CpuException("UNDEFINED", f"{instruction.name} is not an arm64 instruction")
        if self.ls64 < form.ls64:
            reason = f"ID_AA64ISAR1_EL1.LS64 is {self.ls64}, {instruction.name} needs {form.ls64}"
            return CpuException("UNDEFINED", reason)
        if not privileged and not form.enabled(self):
            return CpuException("LS64 trap", f"{form.enable} is 0", ec=_EC_LS64, iss=form.iss)
        if destination % SIZE:
            return CpuException("alignment fault", f"destination is not {SIZE}-byte aligned")
        data = _with_dword0(source, regs.accdata_el1 & 0xFFFF_FFFF) if form.dword0_from_register else source
        return Store(data, posted=form.posted)


@dataclass(frozen=True, slots=True)
class _Arm64Form:
    """One arm64 instruction."""

    ls64: int  # the least ID_AA64ISAR1_EL1.LS64 that has it
    enable: str
    enabled: Callable[[Arm64Cpu], bool]
    iss: int  # of the trap when not enabled
    dword0_from_register: bool
    posted: bool


_EC_LS64: Final = 0x0A

_ARM64_FORMS: Final[Mapping[Instruction, _Arm64Form]] = {
    Instruction.ST64B: _Arm64Form(
        ls64=1,
        enable="SCTLR_EL1.EnALS (bit 56)",
        enabled=lambda cpu: cpu.en_als,
        iss=2,
        dword0_from_register=False,
        posted=True,
    ),
    Instruction.ST64BV: _Arm64Form(
        ls64=2,
        enable="SCTLR_EL1.EnASR (bit 54)",
        enabled=lambda cpu: cpu.en_asr,
        iss=0,
        dword0_from_register=False,
        posted=False,
    ),
    Instruction.ST64BV0: _Arm64Form(
        ls64=3,
        enable="SCTLR_EL1.EnAS0 (bit 55)",
        enabled=lambda cpu: cpu.en_as0,
        iss=1,
        dword0_from_register=True,
        posted=False,
    ),
}


# Bytes and bits.


def _check_size(what: str, data: bytes) -> None:
    if len(data) != SIZE:
        raise ValueError(f"the {what} is {len(data)} bytes, not {SIZE}")


def _pasid_bits(pasid: int) -> int:
    if not 0 <= pasid <= MAX_PASID:
        raise ValueError(f"PASID {pasid:#x} does not fit bits 19:0")
    return pasid


def _dword0(data: bytes) -> int:
    return int.from_bytes(data[:4], "little")


def _with_dword0(data: bytes, dword0: int) -> bytes:
    return dword0.to_bytes(4, "little") + data[4:]
