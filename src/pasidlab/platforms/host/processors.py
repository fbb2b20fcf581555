"""The CPUs, as /proc/cpuinfo tells.

Source: arch/{x86/kernel/cpu,arm64/kernel,riscv/kernel}, show_cpuinfo / c_show (v6.12 and v7.3). On x86 the flag `la57`
says that the kernel uses page tables of 5 levels: it is taken away where it boots with no5lvl or was built without
(before v6.16, when the option CONFIG_X86_5LEVEL went away), not only where the CPU has none.

Decided here: the first CPU stands for all.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Processors:
    """What is known of the CPUs.

    Attributes:
        machine: x86_64, aarch64, riscv64; empty where the text tells none.
        vendor: GenuineIntel, AuthenticAMD; empty on others than x86.
        model: as the first CPU calls itself; empty where it does not.
        flags: of the first CPU.
    """

    machine: str
    vendor: str
    model: str
    flags: frozenset[str]


def read_cpuinfo(text: str) -> Processors:
    """Read /proc/cpuinfo; anything may be missing."""
    found: dict[str, str] = {}
    for line in text.lstrip("\n").split("\n\n", 1)[0].split("\n"):
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    flags = found.get("flags", found.get("Features", ""))
    return Processors(
        _machine(found), found.get("vendor_id", ""), found.get("model name", ""), frozenset(flags.split())
    )


def machine_of(text: str) -> str:
    """Return what uname calls machines with such CPUs; empty where the text does not tell."""
    return read_cpuinfo(text).machine


def _machine(found: dict[str, str]) -> str:
    if "vendor_id" in found and "flags" in found:
        return "x86_64" if "lm" in found["flags"].split() else "i686"
    if "CPU implementer" in found:
        return "aarch64"
    if found.get("isa", "").startswith("rv"):
        return "riscv64" if found["isa"].startswith("rv64") else "riscv32"
    return ""
