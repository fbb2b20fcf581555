"""What a host's kernel says of itself: release, command line, configuration, CPUs, and log."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasidlab.linux.profiles import PROFILES
from pasidlab.platforms.host.cmdline import boolean, read_cmdline, scalable_mode, vtd_enabled
from pasidlab.platforms.host.dmesg import dmesg_says, log_of, log_says, read_dmesg, read_line
from pasidlab.platforms.host.kernel import (
    cmdline_says,
    config_says,
    cpuinfo_says,
    kernel_config,
    kernel_says,
    read_config,
    release_of,
)
from pasidlab.platforms.host.processors import read_cpuinfo
from pasidlab.platforms.host.releases import profile_for, refuses_x86
from pasidlab.platforms.host.trees import HostTree
from pasidlab.platforms.said import Said
from tests.host_files import DATA, link, make_host, write


def text(name: str) -> str:
    return (DATA / name).read_text()


def rules(said: Said) -> list[str]:
    return [finding.rule.id for finding in said.findings]


@pytest.mark.parametrize(
    ("release", "profile", "remark"),
    [
        ("7.3.4", "v7.3", ""),
        ("7.3.0-rc1", "v7.3", ""),
        ("7.4.1", "v7.3", "newer than v7.3"),
        ("7.0.2", "v7.0", ""),
        ("6.18.44-fc", "v6.16", "no profile of its own; v6.16 is the nearest that is not newer"),
        ("6.14.0-27-generic", "v6.12.0", "v6.12.0 is the nearest"),
        ("6.12.30", "v6.12", "6.12.117"),
        ("6.12.0", "v6.12.0", ""),
        ("6.12.0-rc3", "v6.12.0", ""),
        ("6.12.0-55.el10", "v6.12", "a distribution's kernel"),
        ("5.15.0-91-generic", "v6.12.0", "v6.12.0 is the oldest"),
        ("6.12.117", "v6.12", ""),
        ("unknown", "v7.3", "is none"),
    ],
)
def test_a_release_has_the_nearest_profile_that_is_not_newer(release: str, profile: str, remark: str) -> None:
    found, said = profile_for(release)
    assert found == profile
    assert remark in said
    assert bool(remark) == bool(said)
    assert found in PROFILES


def test_a_host_s_kernel_says_release_words_options_and_cpus(tmp_path: Path) -> None:
    said = kernel_says(HostTree(make_host(tmp_path)))
    assert said.machine["kernel"] == ("v6.12", "proc/sys/kernel/osrelease, 6.12.30")
    assert said.machine["cmdline"].value == "BOOT_IMAGE=/vmlinuz intel_iommu=on,sm_on no5lvl pci=noats"
    config, origin = said.machine["config"]
    assert origin == "proc/config.gz"
    assert (config["INTEL_IOMMU"], config["INTEL_IOMMU_SVM"], config["IOMMU_SVA"]) == (True, False, False)
    assert "SOUND" not in config
    assert "ARM_SMMU_V3" not in config
    assert said.cpu["arch"].value == "x86"
    assert said.cpu["enqcmd"] == (True, "proc/cpuinfo, flag enqcmd")
    assert said.cpu["la57"] == (False, "proc/cmdline, no5lvl")
    assert rules(said) == ["kernel.ats-off"]
    assert said.findings[0].why == "the kernel was started with pci=noats: no PCI device has ATS"


def test_a_host_without_proc_says_only_that(tmp_path: Path) -> None:
    said = kernel_says(HostTree(tmp_path))
    assert (said.machine, said.cpu, said.findings) == ({}, {}, [])
    assert said.remarks == ["the kernel's release is not known"]


def test_the_release_is_found_in_the_version_too(tmp_path: Path) -> None:
    write(tmp_path, "proc/version", "Linux version 6.15.2-arch1 (build@example)\n")
    assert release_of(HostTree(tmp_path)) == "6.15.2-arch1"


def test_an_old_kernel_is_a_finding(tmp_path: Path) -> None:
    write(tmp_path, "proc/sys/kernel/osrelease", "6.1.0-18-amd64\n")
    said = kernel_says(HostTree(tmp_path))
    assert rules(said) == ["kernel.older"]
    assert said.findings[0].why.startswith("Linux 6.1.0-18-amd64 is older than 6.12")


@pytest.mark.parametrize(
    ("vendor", "cmdline", "expected"),
    [
        ("GenuineIntel", "intel_iommu=off", ["kernel.iommu-off"]),
        ("GenuineIntel", "intel_iommu=on,sm_off", ["kernel.scalable-mode-off"]),
        ("GenuineIntel", "intel_iommu=off,on amd_iommu=off", []),
        ("AuthenticAMD", "amd_iommu=off intel_iommu=off", ["kernel.iommu-off"]),
        ("AuthenticAMD", "iommu=off", ["kernel.iommu-off"]),
        ("AuthenticAMD", "amd_iommu=pgtbl_v2 iommu=pt", []),
    ],
)
def test_words_that_keep_pasids_from_working_are_findings(
    tmp_path: Path, vendor: str, cmdline: str, expected: list[str]
) -> None:
    write(tmp_path, "proc/sys/kernel/osrelease", "7.3.4\n")
    write(tmp_path, "proc/cmdline", cmdline)
    write(tmp_path, "proc/cpuinfo", f"vendor_id : {vendor}\nflags : lm\n")
    assert rules(kernel_says(HostTree(tmp_path))) == expected


@pytest.mark.parametrize(
    ("cmdline", "expected", "undriven"),
    [
        ("intel_iommu=off", ["kernel.iommu-off"], {"intel-vtd"}),
        ("iommu=off", ["kernel.iommu-off"], {"intel-vtd", "amd-vi"}),
        ("amd_iommu=off", ["kernel.iommu-unused"], {"intel-vtd"}),
        ("intel_iommu=on", ["kernel.iommu-unused"], {"intel-vtd"}),
    ],
)
def test_a_kernel_that_shows_none_of_firmwares_iommus_drives_none_whoever_made_the_cpus(
    tmp_path: Path, cmdline: str, expected: list[str], undriven: set[str]
) -> None:
    write(tmp_path, "proc/sys/kernel/osrelease", "7.3.4\n")
    write(tmp_path, "proc/cmdline", cmdline)
    write(tmp_path, "proc/cpuinfo", "vendor_id : AuthenticAMD\nflags : lm\n")
    write(tmp_path, "sys/firmware/acpi/tables/DMAR", "a table")
    write(tmp_path, "sys/bus/pci/devices/0000:00:01.0/vendor", "0x8086\n")
    said = kernel_says(HostTree(tmp_path))
    assert rules(said) == expected
    assert said.undriven == undriven


def test_what_words_turn_off_is_not_used_whatever_the_hardware_has(tmp_path: Path) -> None:
    write(tmp_path, "proc/cmdline", "intel_iommu=on,sm_off pci=noats")
    write(tmp_path, "proc/cpuinfo", "vendor_id : GenuineIntel\nflags : lm\n")
    unused = kernel_says(HostTree(tmp_path)).unused
    assert {kind: {key: known.value for key, known in keys.items()} for kind, keys in unused.items()} == {
        "intel-vtd": {"scalable": False, "ats": False, "pri": False},
        "arm-smmu-v3": {"ats": False, "pri": False},
    }
    assert unused["intel-vtd"]["scalable"].origin == "proc/cmdline, intel_iommu=on,sm_off"


def test_an_smmus_line_of_a_kernel_that_does_not_print_the_input_size_is_read() -> None:
    log = read_dmesg("[    1.0] arm-smmu-v3 arm-smmu-v3.0.auto: oas 44-bit (features 0x01008305)\n", "log")
    assert [(one.ias, one.oas, one.features) for one in log.smmus] == [(None, 44, 0x1008305)]


@pytest.mark.parametrize(
    ("release", "refuses"),
    [
        ("6.12.63", False),
        ("6.12.64", True),
        ("6.12.0", False),
        ("6.18.3", False),
        ("6.18.5", True),
        ("6.18.9", None),
        ("6.17.0-22-generic", None),
        ("6.17.4", False),
        ("6.19.0", False),
        ("7.0.0-3-generic", False),
        ("5.15.200", True),
        ("4.19.1", False),
        ("none", None),
    ],
)
def test_which_kernels_refuse_sva_on_x86(release: str, refuses: bool | None) -> None:
    assert refuses_x86(release) is refuses


@pytest.mark.parametrize(
    ("release", "switch", "found"),
    [
        ("6.12.30", {"x86_sva_refused": False}, []),
        ("6.12.117", None, []),
        ("6.18.5", {"x86_sva_refused": True}, []),
        ("6.17.0-22-generic", None, ["kernel.perhaps-no-sva"]),
        ("6.12.0-55.el10", {"x86_sva_refused": False}, ["kernel.perhaps-no-sva"]),
    ],
)
def test_what_differs_from_the_profile_on_x86_is_a_switch(
    tmp_path: Path, release: str, switch: dict[str, bool] | None, found: list[str]
) -> None:
    write(tmp_path, "proc/sys/kernel/osrelease", f"{release}\n")
    write(tmp_path, "proc/cpuinfo", "vendor_id : AuthenticAMD\nflags : lm\n")
    said = kernel_says(HostTree(tmp_path))
    assert (said.machine["switches"].value if "switches" in said.machine else None) == switch
    assert rules(said) == found


def test_single_files_say_what_they_tell_by_themselves() -> None:
    config = config_says(text("arm64.config"), "arm64.config")
    assert config.machine["config"].origin == "arm64.config"
    assert config.cpu["page_size"] == (65536, "arm64.config, ARM64_64K_PAGES")
    cmdline = cmdline_says("iommu=off no5lvl root=/dev/x", "words")
    assert cmdline.machine["cmdline"] == ("iommu=off no5lvl", "words")
    assert cmdline.cpu["la57"] == (False, "words, no5lvl")
    assert rules(cmdline) == ["kernel.iommu-off"]
    cpu = cpuinfo_says("vendor_id : GenuineIntel\nflags : lm la57\n", "cpu.txt")
    assert cpu.cpu["la57"] == (True, "cpu.txt, flag la57")
    assert config.remarks == cmdline.remarks == cpu.remarks == []


# The command line


def test_words_are_read_as_the_kernel_reads_them() -> None:
    said = read_cmdline(
        "intel_iommu=sm_on,igfx_off intel_iommu=on iommu=pt iommu.passthrough=0 amd_iommu=pgtbl_v1,pgtbl_v2 "
        "arm-smmu-v3.disable_bypass=y pci=nomsi,noats,config_acs=1@0000:00:01.0 pcie_acs_override=downstream "
        'dyndbg="file x +p iommu=off" -- no5lvl iommu=off'
    )
    assert said.vtd == (True, "intel_iommu=on")
    assert said.scalable_mode == (True, "intel_iommu=sm_on,igfx_off")
    assert said.igfx_off is not None
    assert said.passthrough == (False, "iommu.passthrough=0")
    assert said.amd_page_tables == (2, "amd_iommu=pgtbl_v1,pgtbl_v2")
    assert said.smmu_disable_bypass == (True, "arm-smmu-v3.disable_bypass=y")
    assert said.ats is not None
    assert not said.ats.value
    assert said.acs == ("pci=nomsi,noats,config_acs=1@0000:00:01.0", "pcie_acs_override=downstream")
    assert (said.five_level, said.iommu, said.amd) == (None, None, None)


def test_names_have_dashes_or_underscores() -> None:
    assert read_cmdline("arm_smmu_v3.disable_bypass=1").smmu_disable_bypass is not None
    assert read_cmdline("iommu.strict=0").strict == (False, "iommu.strict=0")
    assert read_cmdline("no5lvl").five_level == (False, "no5lvl")
    assert read_cmdline("iommu=soft").bounce == (True, "iommu=soft")


@pytest.mark.parametrize(
    ("word", "value"), [("1", True), ("on", True), ("Yes", True), ("0", False), ("off", False), ("o", None), ("", None)]
)
def test_truth_is_read_as_kstrtobool_does(word: str, value: bool | None) -> None:
    assert boolean(word) is value


@pytest.mark.parametrize(
    ("cmdline", "config", "release", "expected"),
    [
        ("intel_iommu=on,sm_on", {}, "5.10.0", (True, "intel_iommu=on,sm_on")),
        ("intel_iommu=sm_off", {"INTEL_IOMMU_SCALABLE_MODE_DEFAULT_ON": True}, "6.12.1", (False, "sm_off")),
        ("", {"INTEL_IOMMU_SCALABLE_MODE_DEFAULT_ON": False}, "6.12.1", (False, "is not set")),
        ("", {"INTEL_IOMMU_SCALABLE_MODE_DEFAULT_ON": True}, "6.12.1", (True, "DEFAULT_ON=y")),
        ("intel_iommu=off", {"INTEL_IOMMU_SCALABLE_MODE_DEFAULT_ON": True}, "6.12.1", (False, "intel_iommu=off")),
        ("intel_iommu=on", {"INTEL_IOMMU": False}, "6.12.1", (False, "INTEL_IOMMU is not set")),
        ("", {}, "6.12.1", (True, "default of Linux 6.12.1")),
        ("", {}, "5.14.0", (False, "default of Linux 5.14.0")),
        ("", {}, "", None),
    ],
)
def test_scalable_mode_follows_word_then_option_then_release(
    cmdline: str, config: dict[str, bool], release: str, expected: tuple[bool, str] | None
) -> None:
    found = scalable_mode(read_cmdline(cmdline), config, release)
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert found.value is expected[0]
        assert expected[1] in found.origin


def test_sm_on_alone_does_not_turn_vtd_on() -> None:
    assert vtd_enabled(read_cmdline("intel_iommu=sm_on"), {"INTEL_IOMMU_DEFAULT_ON": False}) is None
    on = vtd_enabled(read_cmdline(""), {"INTEL_IOMMU_DEFAULT_ON": True})
    assert on is not None
    assert on.value is True


@given(st.text(alphabet='iommu=_,on"f. -pt\\x00', max_size=60))
def test_any_command_line_can_be_read(words: str) -> None:
    assert read_cmdline(words).text == words.strip()


# The configuration


def test_options_that_nobody_could_choose_are_off() -> None:
    config = read_config(text("arm64.config"))
    assert config["ARM_SMMU_V3"] is True
    assert config["ARM_SMMU_V3_SVA"] is False
    assert config["IOMMU_SVA"] is False
    assert config["PCI_ATS"] is True
    assert config["IOMMUFD"] is True
    assert "INTEL_IOMMU_SVM" not in config


def test_in_a_part_of_a_configuration_what_is_absent_is_not_known() -> None:
    assert read_config("CONFIG_INTEL_IOMMU=y\nCONFIG_PCI_PASID=n\n") == {"INTEL_IOMMU": True, "PCI_PASID": False}


def test_the_configuration_is_found_in_boot_too_and_tells_the_page_size(tmp_path: Path) -> None:
    write(tmp_path, "proc/sys/kernel/osrelease", "6.12.30\n")
    write(tmp_path, "boot/config-6.12.30", text("arm64.config"))
    write(tmp_path, "proc/cpuinfo", "processor : 0\nFeatures : fp asimd\nCPU implementer : 0x41\n")
    said = kernel_says(HostTree(tmp_path))
    assert said.cpu["arch"].value == "arm64"
    assert said.cpu["page_size"] == (65536, "boot/config-6.12.30, ARM64_64K_PAGES")
    assert "la57" not in said.cpu
    assert kernel_config(HostTree(tmp_path))["ARM_SMMU_V3_SVA"] is False


def test_a_configuration_that_cannot_be_unpacked_is_a_finding(tmp_path: Path) -> None:
    write(tmp_path, "proc/config.gz", b"\x1f\x8b\x08 and no more")
    said = kernel_says(HostTree(tmp_path))
    assert rules(said) == ["kernel.config-unreadable"]
    assert "config" not in said.machine


# The CPUs


@pytest.mark.parametrize(
    ("cpuinfo", "machine"),
    [
        ("vendor_id : GenuineIntel\nflags : fpu lm\n", "x86_64"),
        ("vendor_id : GenuineIntel\nflags : fpu\n", "i686"),
        ("Features : fp\nCPU implementer : 0x41\n", "aarch64"),
        ("hart : 0\nisa : rv64imafdc\n", "riscv64"),
        ("", ""),
    ],
)
def test_cpus_tell_their_architecture(cpuinfo: str, machine: str) -> None:
    assert read_cpuinfo(cpuinfo).machine == machine


def test_a_machine_whose_cpus_are_not_modelled_says_so(tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", "hart : 0\nisa : rv64imafdc\n")
    said = kernel_says(HostTree(tmp_path))
    assert said.cpu == {}
    assert "CPUs of riscv64 are not modelled; what they tell is left out" in said.remarks


def test_la57_is_the_flag_unless_the_kernel_was_built_without(tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", "vendor_id : GenuineIntel\nflags : lm la57\n")
    assert kernel_says(HostTree(tmp_path)).cpu["la57"] == (True, "proc/cpuinfo, flag la57")
    write(tmp_path, "proc/sys/kernel/osrelease", "6.12.1\n")
    write(tmp_path, "boot/config-6.12.1", "# CONFIG_X86_5LEVEL is not set\n")
    assert kernel_says(HostTree(tmp_path)).cpu["la57"].value is False


# The log


@pytest.mark.parametrize(
    ("raw", "time"),
    [
        ("[    1.500000] DMAR: x", 1.5),
        ("<6>[    1.500000] DMAR: x", 1.5),
        ("kern  :info  : [    1.500000] DMAR: x", 1.5),
        ("[    1.500000][    T1] DMAR: x", 1.5),
        ("Nov 20 10:00:00 host kernel: [    1.500000] DMAR: x", 1.5),
        ("Nov  2 10:00:00 host kernel: DMAR: x", None),
        ("2026-11-20T10:00:00+00:00 host kernel: DMAR: x", None),
        ("[Fri Nov 20 10:00:00 2026] DMAR: x", None),
        ("DMAR: x\r", None),
    ],
)
def test_a_line_is_the_kernel_s_text_however_the_log_was_printed(raw: str, time: float | None) -> None:
    line = read_line(raw, 3)
    assert (line.number, line.time, line.text) == (3, time, "DMAR: x")


def test_a_log_tells_vtd_units_and_where_they_differ() -> None:
    log = read_dmesg(text("vtd.dmesg"), "vtd.dmesg")
    assert [unit.name for unit in log.vtd] == ["dmar0", "dmar1"]
    assert log.release == "6.12.30"
    assert [feature for feature, _ in log.inconsistent] == ["pasid", "smts"]
    assert any("Unable to turn on user SVA feature" in line.text for line in log.lines)
    assert not any("usb" in line.text for line in log.lines)
    said = dmesg_says(log)
    first, second = said.iommus
    assert (first.base, second.base) == (0xFED90000, 0xFED91000)
    assert first.keys["pasid_bits"] == (20, "vtd.dmesg, line 5, ecap 0x38d98e4f050df, bits 39:35 (PSS)")
    assert first.keys["scalable"].value is True
    assert second.keys["pasid_bits"].value == 0
    assert second.keys["scalable"].value is False
    assert rules(said) == ["kernel.vtd-inconsistent"] * 2
    assert said.findings[0].why.startswith("vtd.dmesg, line 9: VT-d units differ in pasid;")


def test_of_several_starts_of_a_kernel_the_last_counts() -> None:
    log = read_dmesg(text("smmu.journal"))
    assert log.release == "7.3.4-generic"
    assert [smmu.features for smmu in log.smmus] == [0x21FFF, 0x02608DEF]


def test_an_smmu_s_features_have_names_and_become_keys() -> None:
    said = dmesg_says(read_dmesg(text("smmu.journal")), {"arm-smmu-v3.0.auto": "smmu3.0x000000002b400000"})
    first, second = said.iommus
    assert (first.name, first.base) == ("smmu3.0x000000002b400000", 0x2B400000)
    assert (second.name, second.base) == ("smmu3.0x0000000009050000", 0x9050000)
    values = {key: known.value for key, known in first.keys.items()}
    assert values == {"sva": True, "two_level": True, "stall": True, "ats": True, "pri": True, "httu": 0}
    assert second.keys["sva"].value is False
    assert second.keys["httu"].value == 2
    log = read_dmesg(text("smmu.journal"))
    assert log.smmus[1].names[-1] == "bit 25"
    assert {"HA", "HD"} < set(log.smmus[1].names)


def test_an_smmu_whose_address_is_not_known_is_a_remark() -> None:
    said = dmesg_says(read_dmesg(text("smmu.journal")))
    assert [iommu.base for iommu in said.iommus] == [0x9050000]
    assert said.remarks[0].startswith("dmesg, line 4: arm-smmu-v3.0.auto has 2_LVL_STRTAB, ")


def test_a_host_s_sysfs_tells_which_smmu_a_log_means(tmp_path: Path) -> None:
    write(tmp_path, "var/log/dmesg", text("smmu.journal"))
    link(tmp_path, "sys/class/iommu/smmu3.0x000000002b400000/device", "../../../arm-smmu-v3.0.auto")
    said = log_says(HostTree(tmp_path))
    assert said is not None
    assert said.source == "var/log/dmesg"
    assert said.iommus[0].base == 0x2B400000


def test_a_log_tells_amd_s_features() -> None:
    log = read_dmesg(text("amd.dmesg"))
    (amd,) = log.amd
    assert (amd.efr, amd.efr2) == (0x246577EFA2254AFA, 0x10)
    assert amd.names == ("PPR", "NX", "GT", "[5]", "IA", "GA", "PC", "GA_vAPIC")
    assert "SVA bind device failed, ret -28" in log.lines[-1].text
    assert log.lines[-1].time == 20.0


def test_a_host_without_a_log_has_none(tmp_path: Path) -> None:
    assert log_of(HostTree(tmp_path)) is None
    assert log_says(HostTree(tmp_path)) is None


@given(
    st.lists(
        st.sampled_from(["DMAR: ", "dmar0: reg_base_addr ", "[1.0] ", "ffff", " cap ", "\n", "\x00", "iommu", "-"])
    )
)
def test_any_log_can_be_read(parts: list[str]) -> None:
    log = read_dmesg("".join(parts))
    assert len(log.lines) <= len(parts) + 1
    assert dmesg_says(log).iommus == []


def test_a_line_of_any_length_is_cut() -> None:
    line = read_line("[    1.000000] DMAR: " + "x" * 100_000)
    assert len(line.text) < 4096
    assert re.fullmatch("DMAR: x+", line.text)
