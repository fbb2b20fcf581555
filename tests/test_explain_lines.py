"""Lines of logs: which are known, what their numbers mean, and what stands behind them."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasidlab.description import DeviceSpec, IommuSpec, MachineSpec
from pasidlab.explain import PATTERNS, LineAnswer, Standing, explain_log, recognise
from pasidlab.explain.decoded import reason_text, rules_of_reason
from pasidlab.explain.log import LONGEST_LINE, TELLING
from pasidlab.explain.remedies import remedy_of
from pasidlab.hw.smmuv3.records import FTranslation
from pasidlab.hw.vtd.records import PageRequest, Reason
from pasidlab.rules import RULES

DMAR_3A = (
    "DMAR: [DMA Read PASID 0x2] Request device [6a:01.0] fault addr 0x7fe0c9943000 [fault reason 0x3a] SM: Non-zero"
)
UNIT = "DMAR: dmar0: reg_base_addr d97fc000 ver 6:0 cap 19ed008c40780c66 ecap {ecap}"
LINES = {
    "amdxdna 0000:65:00.1: amdxdna_drm_open: SVA bind device failed, ret -28": (
        "amdxdna-bind",
        "bind.device-without-pasids",
    ),
    "amdxdna 0000:c5:00.1: [drm] *ERROR* amdxdna_drm_open: SVA bind device failed, ret -95": (
        "amdxdna-bind",
        "bind.x86-refused",
    ),
    "[drm:amdxdna_drm_open] *ERROR* SVA bind device failed, ret -19": ("amdxdna-bind", "bind.not-built"),
    "amdxdna 0000:00:1b.0: aie2_init: Enable PASID failed, ret -19": ("amdxdna-enable", "enable-sva.unsupported"),
    "idxd 0000:f2:01.0: Unable to turn on user SVA feature.": ("idxd-sva", "enable-sva.unsupported"),
    "idxd 0000:f2:01.0: Unable to turn on SVA feature.": ("idxd-sva", "enable-sva.unsupported"),
    "idxd 0000:6a:01.0: No in-kernel DMA with PASID. -28": ("idxd-kernel-pasid", "idxd.no-kernel-number"),
    "idxd 0000:6a:01.0: No in-kernel DMA with PASID.": ("idxd-kernel-pasid", "idxd.no-kernel-number"),
    "idxd 0000:6a:01.0: Failed to enable system pasid": ("idxd-kernel-pasid", "idxd.no-kernel-number"),
    "idxd 0000:6a:01.0: User forced SVA off via module param.": ("idxd-forced-off", "idxd.sva-forced-off"),
    "idxd 0000:75:02.0: No shared wq support but configured.": ("idxd-no-swq", "idxd.no-shared-queues"),
    "Error[0x800c0000] iax1: wq error - no shared wq support (platform configuration error)": (
        "idxd-no-swq",
        "idxd.no-shared-queues",
    ),
    "Error[0x80040000] dsa0/wq0.0: wq error - name not set": ("accel-config-error", "idxd.queue-without-name"),
    "Error[0x26] dsa0/wq0.0: Invalid value for WQ pasid enable": ("accel-config-error", "idxd.queue-without-pasids"),
    "Error[0x2a] dsa0/wq0.0: PCIe pasid cap Priv mode enable = 0": ("accel-config-error", "idxd.queue-without-pasids"),
    "libaccfg: accfg_wq_set_str_mode: wq0.0: write failed: Invalid argument": (
        "shared-mode",
        "idxd.shared-mode-refused",
    ),
    "shared wq support not available": ("shared-mode", "idxd.shared-mode-refused"),
    "accfg-test0 *skipped*: required feature not found": ("shared-mode", "idxd.shared-mode-refused"),
    "libaccfg: accfg_wq_set_threshold: wq0.0: write failed: Invalid argument": (
        "threshold",
        "idxd.threshold-of-dedicated",
    ),
    '"pasid_enabled":0': ("pasid-enabled", "idxd.user-sva-refused"),
    "modprobe: FATAL: Module idxd_vdev not found in directory /lib/modules/5.19": ("idxd-vdev", "explain.idxd-no-vdev"),
    "IOMMU: dmar12: Page request without PASID": ("page-request-without-pasid", "prq.driver-invalid"),
    "dmar15: Invalid page request: 6a080001 2000003e9027": ("invalid-page-request", "prq.driver-invalid"),
    "IOMMU: dmar15: Address is not canonical": ("page-request-refused", "prq.driver-invalid"),
    "DMAR: IOMMU feature pasid inconsistent": ("feature-inconsistent", "intel.feature-inconsistent"),
    "DMAR: dmar3 SVM disabled, incompatible paging mode": ("svm-paging-mode", "intel.svm-no-5-level"),
    "DMAR: dmar3 SVM disabled, incompatible 1GB page capability": ("svm-1g-pages", "intel.svm-no-1g-pages"),
    DMAR_3A: ("dmar-fault", "vtd.root-reserved"),
    "kernel: ? iopf_queue_flush_dev+0x2f/0x40": ("flush-warning", "fault.flush-no-param"),
    "WARNING: at arm_smmu_write_ctx_desc+0x1c/0x2a0": ("cd-too-narrow", "explain.cd-written-to-narrow-member"),
    "WARN_ON(ssid >= 1 << cd_table->s1cdmax)": ("cd-too-narrow", "explain.cd-written-to-narrow-member"),
    "ida_free called for id=7 which is not allocated.": ("ida-free", "free-global.not-held"),
    "arm-smmu-v3 a.auto: event: C_BAD_SUBSTREAMID client: 0000:01:00.0 sid: 0x100 ssid: 0x4": (
        "smmu-event-named",
        "smmu.ssid-range",
    ),
    "arm-smmu-v3 a.auto: \tsid 0x00000100.0x00003: [2L] unprivileged RW access at iova 0x0000000010000000": (
        "smmu-page-request",
        "arm-smmu-v3.pri-denied",
    ),
    "AMD-Vi: Event logged [INVALID_DEVICE_REQUEST device=c5:00.1 pasid=0x00001 address=0x1000 flags=0x0a00]": (
        "amd-event",
        "dma.no-entry",
    ),
    "AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x001a address=0xfffc8000 flags=0x0050]": ("amd-event", "dma.no-entry"),
    "traps: app[77] general protection fault ip:40119b sp:7ffd error:0 in app": (
        "general-protection",
        "traps.gp-other",
    ),
    "cuInit = 3": ("cuda", "bind.not-built"),
    "cuInit(0) returned 3 (CUDA_ERROR_NOT_INITIALIZED)": ("cuda", "bind.not-built"),
    "uacce: open /dev/hisi_zip-0 failed: -28": ("uacce", "bind.device-without-pasids"),
    "DSA completion status = 131, fault_addr = 139662672789504": ("completion", "idxd.completed-with-error"),
    "QPL_STS_INIT_WORK_QUEUES_NOT_AVAILABLE": ("qpl", "explain.qpl-no-queue"),
    "DML status 16": ("dml", "explain.dml-no-accel-config"),
    "iommu_sva_bind_device() failed: -75": ("bind-failed", "bind.number-too-wide"),
    "WARNING: trace through iommu_sva_unbind_device+0x3f/0xa0": ("unbind", "explain.unbind-returns-nothing"),
    "the IOMMU says capabilities.PD20 = 1": ("riscv-width", "explain.riscv-widths"),
}
CLOCKS = ("", "[   31.743128] ", "Nov 01 16:52:04 host kernel: ", "[Wed May 11 23:18:08 2022] ")


def only(text: str, **more: object) -> LineAnswer:
    (answer,) = explain_log(text, **more)  # type: ignore[arg-type]
    return answer


def first_ids(answer: LineAnswer) -> list[str]:
    return [cause.rule.id for cause in answer.causes]


# --- which lines are known -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", CLOCKS, ids=("bare", "boot", "journal", "date"))
@pytest.mark.parametrize("text", LINES)
def test_a_line_is_known_whatever_stands_before_it(text: str, clock: str) -> None:
    (found,) = recognise(clock + text)
    assert found.pattern.id == LINES[text][0]


@pytest.mark.parametrize("text", LINES)
def test_the_likeliest_cause_of_a_line_is_among_the_first_two(text: str) -> None:
    assert LINES[text][1] in first_ids(only(text))[:2]


def test_every_pattern_has_a_line_here() -> None:
    tried = {pattern for pattern, _ in LINES.values()}
    elsewhere = {"unit", "smmu-event-raw", "idxd-error", "idxd-halted", "amdxdna-pasid", "fault-param-warning"}
    assert {pattern.id for pattern in PATTERNS} == tried | elsewhere | {"cmd-status", "enable-wq-failed"}


def test_patterns_have_names_of_their_own_and_rules_that_exist() -> None:
    assert len({pattern.id for pattern in PATTERNS}) == len(PATTERNS)
    for pattern in PATTERNS:
        assert set(pattern.rules) <= set(RULES), pattern.id
        assert all(remedy_of(RULES[rule]) for rule in pattern.rules), pattern.id
    assert {pattern.id for pattern in PATTERNS} >= TELLING


@pytest.mark.parametrize(
    "text",
    [
        "amdxdna 0000:c5:00.1: enabling device (0000 -> 0002)",
        "idxd 0000:f2:02.0: Intel(R) Accelerator Device (v100)",
        "DMAR: DRHD: handling fault status reg 3",
        "systemd[1]: Started something with status 0",
        "usb 1-1: device descriptor read/64, error -71",
        "",
    ],
)
def test_other_lines_are_passed_over(text: str) -> None:
    assert not explain_log(text)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("SVA get pasid failed", "amdxdna-pasid"),
        ("idxd 0000:6a:01.0: idxd halted, need FLR.", "idxd-halted"),
        ("WARNING: iommu_report_device_fault+0x1/0x2", "fault-param-warning"),
        ("cmd_status: 0x26", "cmd-status"),
        ("failed in dsa0/wq0.1", "enable-wq-failed"),
    ],
)
def test_lines_that_say_little_are_known_too(text: str, pattern: str) -> None:
    assert only(text).line.pattern.id == pattern


def test_lines_that_say_the_same_are_told_once_in_order() -> None:
    log = "\n".join(
        [
            "DMAR: IOMMU feature pasid inconsistent",
            "[1.0] idxd 0000:6a:01.0: Unable to turn on user SVA feature.",
            "[2.0] idxd 0000:6a:01.0: Unable to turn on user SVA feature.",
            "noise",
            "[2.5] idxd 0000:e7:01.0: Unable to turn on user SVA feature.",
        ]
    )
    answers = explain_log(log)
    assert [(answer.line.number, answer.times, answer.line.device) for answer in answers] == [
        (1, 1, ""),
        (2, 2, "0000:6a:01.0"),
        (5, 1, "0000:e7:01.0"),
    ]


@given(st.text(alphabet=string.printable, max_size=400))
def test_no_text_is_too_strange(text: str) -> None:
    for answer in explain_log(text):
        assert answer.causes or answer.line.pattern.meaning


@given(st.sampled_from(sorted(LINES)), st.integers(0, 200), st.text(alphabet=string.printable, max_size=20))
def test_a_line_that_is_cut_or_changed_does_no_harm(text: str, at: int, other: str) -> None:
    for found in recognise(text[:at] + other + text[at:]):
        assert found.decoded is not None


def test_a_very_long_line_is_looked_at_in_part() -> None:
    assert not explain_log("x" * LONGEST_LINE + "cuInit = 3")
    assert only("cuInit = 3 " + "x" * 10 * LONGEST_LINE).line.text.startswith("cuInit")


# --- numbers -------------------------------------------------------------------------------------------------------


def test_a_dmar_fault_names_device_pasid_and_check() -> None:
    answer = only(DMAR_3A)
    assert answer.line.decoded == (
        "DMA Read by 6a:01.0 under PASID 2 at 0x7fe0c9943000",
        "fault reason 0x3a, root reserved: reserved bits of that half are set",
    )


@pytest.mark.parametrize(
    ("text", "who"),
    [
        (
            "[DMA Read NO_PASID] Request device [0x00:0x02.0] fault addr 0x70ad5000 [fault reason 0x06] PTE Read",
            "DMA Read by 0x00:0x02.0 without PASID at 0x70ad5000",
        ),
        (
            "[DMA Read] Request device [00:02.0] PASID ffffffff fault addr 9c000000 [fault reason 06] PTE Read access",
            "DMA Read by 00:02.0 without PASID at 0x9c000000",
        ),
        (
            "[DMA Write] Request device [99:00.0] fault addr 0 [fault reason 05] PTE Write access is not set",
            "DMA Write by 99:00.0 without PASID at 0x0",
        ),
        (
            "[DMA Write PASID 0x10] Request device [e7:02.0] fault addr 0x1000 [fault reason 0x59] SM: Present",
            "DMA Write by e7:02.0 under PASID 16 at 0x1000",
        ),
    ],
)
def test_dmar_faults_of_all_kernels_are_read(text: str, who: str) -> None:
    assert only(f"DMAR: {text}").line.decoded[0] == who


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason])
def test_every_fault_reason_has_words(reason: Reason) -> None:
    assert reason_text(reason).startswith(f"fault reason {reason:#04x}, {reason.name.lower().replace('_', ' ')}")


@pytest.mark.parametrize(
    ("reason", "rule"),
    [
        (Reason.PASID_NOT_PRESENT, "vtd.pasid-not-present"),
        (Reason.PASID_ACCESS, "vtd.pasid-access"),
        (Reason.ROOT_RESERVED, "vtd.root-reserved"),
        (Reason.FIRST_NOT_PRESENT, "x86.not-present"),
        (Reason.LEGACY_NO_READ, "vtd.second-no-read"),
    ],
)
def test_a_fault_reason_names_the_check_of_the_model(reason: Reason, rule: str) -> None:
    assert rule in rules_of_reason(reason)


def test_a_reserved_fault_reason_is_said_to_be() -> None:
    assert reason_text(0xEE) == "fault reason 0xee: reserved"


def test_a_page_request_is_taken_apart() -> None:
    words = PageRequest(type=1, pp=1, rid=0x6A08, pasid=5, rd=1, prgi=3, addr=0x7000).words
    assert only(f"dmar1: Invalid page request: {words[0]:08x} {words[1]:08x}").line.decoded == (
        "6a:01.0 asks under PASID 5 for 0x7000 to read, group 3, not the last of its group",
    )


def test_a_capability_line_tells_a_unit_without_pasids() -> None:
    answer = only(UNIT.format(ecap="3ee9e86f050df"))
    assert answer.line.decoded == (
        "dmar0: scalable mode yes, no PASIDs (ECAP bit 40 is 0, PSS 19), page requests no (PRS)",
        "dmar0: first stage yes, of up to 5 levels, 1 GiB pages yes, page-walk snoop yes, device TLBs yes",
    )
    assert [(cause.rule.id, cause.standing) for cause in answer.causes] == [("intel.svm-no-pasid", Standing.FITS)]


def test_a_capability_line_of_a_unit_that_can_share_tables_has_no_cause() -> None:
    answer = only(UNIT.format(ecap="3ef9ea6f050df"))
    assert answer.line.decoded[0] == "dmar0: scalable mode yes, PASIDs of 20 bits (PSS), page requests yes (PRS)"
    assert not answer.causes


def test_what_the_log_says_of_a_unit_settles_why_sva_is_off() -> None:
    log = f"{UNIT.format(ecap='3ee9e86f050df')}\nidxd 0000:6a:01.0: Unable to turn on user SVA feature."
    refused = explain_log(log)[1]
    assert (refused.causes[0].rule.id, refused.causes[0].standing) == ("intel.svm-no-pasid", Standing.FITS)
    assert refused.causes[0].fact.startswith("line 1: dmar0: scalable mode yes, no PASIDs")


def test_the_words_of_an_smmu_event_are_taken_from_the_lines_after_it() -> None:
    event = FTranslation.make(sid=0x100, ssv=True, ssid=4, rnw=True, inputaddr=0x10000000)
    words = "\n".join(f"arm-smmu-v3 smmu3.auto: \t0x{word:016x}" for word in event.words)
    answer = only(f"arm-smmu-v3 smmu3.auto: event 0x10 received:\n{words}\n")
    assert answer.line.decoded[0] == "F_TRANSLATION (not mapped): stream 0x100, under PASID 4"
    assert "rnw 0x1" in answer.line.decoded[1]
    assert first_ids(answer)[0] == "vmsa.epd"


def test_an_smmu_event_whose_words_are_not_there_is_named_at_least() -> None:
    assert only("event 0x0a received:").line.decoded[0].startswith("C_BAD_CD")


def test_the_error_register_of_a_dsa_is_taken_apart() -> None:
    values = (0x0000000300021A2D, 0, 0x00002000003E9000, 0)
    log = "\n".join(f"idxd 0000:6a:01.0: err[{index}]: 0x{value:016x}" for index, value in enumerate(values))
    answer = only(log)
    assert answer.line.decoded == (
        "memmove of queue 2: error 0x1a (page fault of the completion record) at 0x2000003e9000, without PASID",
    )
    assert answer.line.device == "0000:6a:01.0"


def test_two_error_registers_in_a_row_are_two_lines() -> None:
    log = "idxd x: err[0]: 0x0000000300021a2d\nidxd x: err[0]: 0x0000000300021a2c\n"
    assert [answer.line.number for answer in explain_log(log)] == [1]
    assert explain_log(log)[0].times == 2


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("131", "status 0x83: page fault, block on fault not set, of a write"),
        ("0x03", "status 0x03: page fault, block on fault not set"),
    ],
)
def test_a_completion_status_is_named(status: str, words: str) -> None:
    assert only(f"DSA completion status = {status}").line.decoded == (words,)


def test_flags_of_an_amd_page_fault_are_named_and_a_domain_is_no_pasid() -> None:
    answer = only("AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x001a address=0xfffc8000 flags=0x0050]")
    assert answer.line.decoded == ("IO_PAGE_FAULT: a device without PASID at 0xfffc8000", "flags 0x0050: PR, PE")


def test_a_command_status_is_named() -> None:
    assert only("Error[0x80060000] dsa0/wq0.0").line.decoded == (
        "cmd_status 0x80060000: wq no thresh, refused by the driver",
    )
    assert only("Error[0x26] dsa0").line.decoded == ("cmd_status 0x26: wq pasid enable, refused by the device",)
    assert only("Error[0x77] dsa0").line.decoded == ("cmd_status 0x77: not among the codes that are modelled",)


# --- with a machine ------------------------------------------------------------------------------------------------

UNITS = MachineSpec(
    kernel="v6.15",
    iommu=[IommuSpec("dmar0", "intel-vtd", pasid_bits=0), IommuSpec("dmar1", "intel-vtd")],
    device=[
        DeviceSpec("0000:6a:01.0", "dmar0", "dsa", pasid_bits=20),
        DeviceSpec("0000:e7:01.0", "dmar1", "dsa", pasid_bits=20),
    ],
)


def test_the_device_of_a_line_is_looked_for_in_the_machine() -> None:
    bad, good = explain_log(
        "idxd 0000:6a:01.0: Unable to turn on user SVA feature.\n"
        "idxd 0000:e7:01.0: Unable to turn on user SVA feature.",
        UNITS,
    )
    assert first_ids(bad) == ["intel.svm-no-pasid"]
    assert good.answer is not None
    assert good.answer.ran is not None
    assert good.answer.ran.result == "ok"


def test_a_line_whose_device_the_machine_has_not_is_explained_without_it() -> None:
    answer = only("idxd 0000:11:01.0: Unable to turn on user SVA feature.", machine=UNITS)
    assert answer.notes == ["--device says which device of the machine is meant; without it the machine was not used"]
    assert {cause.standing for cause in answer.causes} == {Standing.OPEN}


def test_what_the_model_found_out_about_the_machine_comes_first() -> None:
    answer = only("IOMMU: dmar15: Page request without PASID", machine=UNITS, device="0000:6a:01.0")
    assert first_ids(answer)[:2] == ["idxd.user-sva-refused", "intel.svm-no-pasid"]
    assert answer.causes[0].standing is Standing.SHOWN


def test_a_call_that_the_device_has_not_is_a_note() -> None:
    machine = MachineSpec(iommu=[IommuSpec("m")], device=[DeviceSpec("npu", "m", pasid_bits=4)])
    answer = only("idxd 0000:75:02.0: No shared wq support but configured.", machine=machine)
    assert answer.notes == [
        "the call was not tried: --call enable_wq: npu is no DSA or IAA; only a device of kind dsa or iaa has it"
    ]
    assert first_ids(answer)[0] == "idxd.no-shared-queues"


def test_a_line_is_a_record_for_programs() -> None:
    record = only("amdxdna 0000:65:00.1: SVA bind device failed, ret -28").as_dict()
    assert (record["line"], record["pattern"], record["device"]) == (1, "amdxdna-bind", "0000:65:00.1")
    assert record["answer"]["result"] == "ENOSPC"
    assert record["causes"][0]["rule"] == "bind.device-without-pasids"


def test_a_result_that_no_errno_is_does_no_harm() -> None:
    answer = only("SVA bind device failed, ret -512")
    assert answer.notes == ["the call was not tried: ERRNO '-512': no errno of the modelled calls has this number"]
    assert not answer.causes
