"""Why a call failed: each check of a call as the model shows it, and what rules it out."""

from __future__ import annotations

import re

import pytest

from pasidlab.description import CpuSpec, DeviceSpec, IommuSpec, MachineSpec, ProcessSpec
from pasidlab.drivers.traits import Mode
from pasidlab.errors import Errno, InputError
from pasidlab.explain import CALLS, PATTERNS, Answer, Question, Standing, explain
from pasidlab.explain.errnos import is_result, read_result
from pasidlab.explain.general import SENTENCES, sentence_of
from pasidlab.explain.remedies import FAMILIES, remedy_of
from pasidlab.explain.scene import MOST_KEPT, Scene
from pasidlab.linux.profiles import PROFILES
from pasidlab.rules import RULES

CHECKS = [(call.id, check) for call in CALLS.values() for check in call.checks]
NARROW = MachineSpec(
    iommu=[IommuSpec("smmu0", "arm-smmu-v3", pasid_bits=16)],
    device=[DeviceSpec("npu", "smmu0", "narrow", pasid_bits=2), DeviceSpec("gpu", "smmu0", pasid_bits=16)],
)
MANY = MachineSpec(
    device=[*(DeviceSpec(f"d{number}", pasid_bits=4) for number in range(100)), DeviceSpec("without PASIDs")]
)
DSA = MachineSpec(iommu=[IommuSpec("dmar0", "intel-vtd")], device=[DeviceSpec("dsa0", "dmar0", "dsa", pasid_bits=20)])


def ids(answer: Answer) -> list[str]:
    return [cause.rule.id for cause in answer.causes]


def standings(answer: Answer) -> dict[str, Standing]:
    return {cause.rule.id: cause.standing for cause in (*answer.ruled_out, *answer.causes)}


def smmu(device: DeviceSpec, *others: DeviceSpec, kernel: str = "v7.3", **iommu: object) -> MachineSpec:
    front = IommuSpec("smmu0", "arm-smmu-v3", **iommu)  # type: ignore[arg-type]
    return MachineSpec(kernel=kernel, iommu=[front], device=[device, *others])


# --- the tables ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("call", "check"), CHECKS, ids=[f"{call}-{check.id}" for call, check in CHECKS])
def test_a_check_names_a_rule_a_result_and_a_remedy(call: str, check: object) -> None:
    from pasidlab.explain.check import Check

    assert isinstance(check, Check)
    assert check.result in {*Errno.__members__, "SIGSEGV", "SIGILL"}
    assert remedy_of(check.rule) or check.id in ("scheme.no-such-call",)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_remedy_of_a_family_is_for_rules_that_say_none(family: str) -> None:
    alike = [rule for rule in RULES.values() if rule.id.startswith(family)]
    assert alike
    assert all(remedy_of(rule) == (rule.remedy or FAMILIES[family]) for rule in alike)


@pytest.mark.parametrize(("call", "kernel"), [*((call, "v6.12.0") for call in CALLS), *(("bind", k) for k in PROFILES)])
def test_every_call_is_explained_on_every_kernel(call: str, kernel: str) -> None:
    answer = explain(Question(call, machine=DSA, kernel=kernel))
    assert answer.kernel == kernel
    assert answer.causes or answer.ruled_out or answer.notes
    places = [cause.number for cause in answer.ruled_out]
    assert places == sorted(places)


def test_a_check_that_is_ruled_out_says_by_what() -> None:
    for call in CALLS:
        for cause in explain(Question(call, machine=DSA, kernel="v6.12.0")).ruled_out:
            assert cause.fact, cause.rule.id


# --- what people type ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["-28", "28", "ENOSPC", "enospc", " ENOSPC "])
def test_an_errno_is_a_number_of_either_sign_or_a_name(text: str) -> None:
    assert is_result(text)
    assert read_result(text) == "ENOSPC"


@pytest.mark.parametrize(("text", "name"), [("ENOTSUP", "EOPNOTSUPP"), ("sigsegv", "SIGSEGV"), ("#GP", "SIGSEGV")])
def test_other_names_of_a_result_are_known(text: str, name: str) -> None:
    assert read_result(text) == name


@pytest.mark.parametrize("text", ["-9999", "ENOTHING", "SIGKILL"])
def test_an_unknown_errno_is_bad_input(text: str) -> None:
    with pytest.raises(InputError, match=f"ERRNO '{text}'"):
        read_result(text)


def test_without_facts_letters_stand_for_them() -> None:
    assert sentence_of(RULES["bind.number-too-wide"]) == "process P has number N for life, and the device carries 1..M"
    assert sentence_of(RULES["bind.device-without-pasids"], "npu") == "npu carries no PASID at all"
    assert sentence_of(RULES["traps.undefined"]) == "the CPU does not have the instruction"


TOLD = sorted({check.id for _, check in CHECKS} | {rule for pattern in PATTERNS for rule in pattern.rules})


@pytest.mark.parametrize("rule", TOLD)
def test_a_sentence_without_facts_is_whole(rule: str) -> None:
    sentence = sentence_of(RULES[rule])
    assert sentence
    assert not re.search(r"[{}]|  | [,;:.]|[ ,;:]$", sentence)


@pytest.mark.parametrize("rule", SENTENCES)
def test_a_sentence_of_its_own_is_of_a_rule_that_there_is(rule: str) -> None:
    assert rule in RULES


def test_a_line_of_a_log_is_no_errno() -> None:
    assert not is_result("SVA bind device failed, ret -28")


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (Question("bund"), r"--call 'bund': no such call; known: bind, "),
        (Question("bind", machine=NARROW), r"--device: must name one of npu, gpu"),
        (Question("bind", machine=NARROW, device="x"), r"--device 'x': no such device; known: npu, gpu"),
        (Question("bind", kernel="v5.4"), r"kernel 'v5.4': no such profile"),
        (Question("enable_wq", machine=NARROW, device="npu"), r"--call enable_wq: npu is no DSA or IAA"),
        (Question("enable_pasid", machine=NARROW, device="npu"), r"--call enable_pasid: npu is no PCI function"),
        (Question("bind", machine=NARROW, device="npu", scheme="x"), "scheme 'x': no such scheme"),
        (Question("bind", scheme="x"), "scheme 'x': no such scheme"),
        (Question("bind", machine=MachineSpec()), "--machine: has no device"),
        (Question("bind", machine=MANY), "--device: must name one of d0, d1, d2, d3, d4, d5, d6, d7, and 92 more$"),
        (Question("bind", machine=MANY, device="x"), "known: d0, d1, d2, d3, d4, d5, d6, d7, and 93 more$"),
    ],
)
def test_a_bad_question_says_what_is_allowed(question: Question, message: str) -> None:
    with pytest.raises(InputError, match=message):
        explain(question)


# --- without a machine ---------------------------------------------------------------------------------------------


def test_without_a_machine_the_checks_are_open_in_the_order_of_the_kernel() -> None:
    answer = explain(Question("bind", -28))
    assert ids(answer)[:2] == ["bind.device-without-pasids", "bind.no-number-free"]
    assert {cause.standing for cause in answer.causes} == {Standing.OPEN}
    assert [cause.number for cause in answer.causes] == sorted(cause.number for cause in answer.causes)
    assert answer.kernel == ""


def test_a_kernel_rules_out_what_it_has_not() -> None:
    assert "bind.x86-refused" in ids(explain(Question("bind", "EOPNOTSUPP")))
    answer = explain(Question("bind", "EOPNOTSUPP", kernel="v7.3"))
    assert standings(answer)["bind.x86-refused"] is Standing.RULED_OUT
    assert answer.ruled_out[0].fact.startswith("kernel v7.3 has no such check (stable kernels on x86")


def test_a_call_that_a_kernel_has_not_is_said_to_be_absent() -> None:
    answer = explain(Question("enable_feature", kernel="v7.3"))
    assert not answer.causes
    assert answer.notes == [
        "kernel v7.3 has no iommu_dev_enable_feature(IOMMU_DEV_FEAT_SVA): kernels before 6.16; later ones find the "
        "same out at bind"
    ]


def test_a_known_iommu_driver_leaves_out_the_checks_of_others() -> None:
    every, amd = explain(Question("bind", "EINVAL")), explain(Question("bind", "EINVAL", iommu="amd-vi"))
    assert "arm-smmu-v3.rid-domain" in ids(every)
    assert standings(amd)["arm-smmu-v3.rid-domain"] is Standing.RULED_OUT
    assert "explain.amd-no-gcr3-table" in ids(amd)


# --- shown on the model --------------------------------------------------------------------------------------------

BEHIND_NONE = MachineSpec(device=[DeviceSpec("npu", pasid_bits=4)])
SHOWN = {
    "bind.no-group": ("bind", "ENODEV", BEHIND_NONE, "npu"),
    "bind.not-built": (
        "bind",
        "ENODEV",
        MachineSpec(config={"IOMMU_SVA": False}, iommu=NARROW.iommu, device=NARROW.device),
        "npu",
    ),
    "bind.x86-refused": ("bind", "EOPNOTSUPP", MachineSpec(kernel="v6.12", iommu=DSA.iommu, device=DSA.device), "dsa0"),
    "bind.device-without-pasids": ("bind", "ENOSPC", smmu(DeviceSpec("npu", "smmu0", "narrow", pasid_bits=0)), "npu"),
    "bind.driver-without-sva": (
        "bind",
        "EOPNOTSUPP",
        MachineSpec(
            iommu=[IommuSpec("m", ops=Mode.NO_DOMAIN_ALLOC_SVA)], device=[DeviceSpec("npu", "m", pasid_bits=4)]
        ),
        "npu",
    ),
    "driver.no-sva-feature": (
        "bind",
        "EOPNOTSUPP",
        MachineSpec(iommu=[IommuSpec("m", sva=False)], device=[DeviceSpec("npu", "m", pasid_bits=4)]),
        "npu",
    ),
    "arm-smmu-v3.no-sva": ("bind", "EOPNOTSUPP", smmu(DeviceSpec("npu", "smmu0", pasid_bits=4), sva=False), "npu"),
    "arm-smmu-v3.rid-domain": (
        "bind",
        "EINVAL",
        smmu(DeviceSpec("npu", "smmu0", pasid_bits=4, default_domain="stage2")),
        "npu",
    ),
    "arm-smmu-v3.iopf-streams": (
        "bind",
        "EOPNOTSUPP",
        smmu(DeviceSpec("npu", "smmu0", "narrow", pasid_bits=4, stream_id=[1, 2])),
        "npu",
    ),
    "attach.beyond-max-pasids": (
        "bind",
        "EINVAL",
        smmu(
            DeviceSpec("gpu", "smmu0", group="g", pasid_bits=4),
            DeviceSpec("bridge", "smmu0", group="g", pasid_bits=0),
        ),
        "gpu",
    ),
    "attach.no-set-dev-pasid": (
        "attach",
        "EOPNOTSUPP",
        MachineSpec(iommu=[IommuSpec("m", ops=Mode.RISCV)], device=[DeviceSpec("npu", "m", pasid_bits=4)]),
        "npu",
    ),
    "intel.sva-no-pasid-or-ats": (
        "bind",
        "EINVAL",
        MachineSpec(iommu=DSA.iommu, device=[DeviceSpec("npu", "dmar0", pasid_bits=20, ats=False)]),
        "npu",
    ),
    "intel.svm-not-coherent": (
        "bind",
        "ENODEV",
        MachineSpec(iommu=[IommuSpec("dmar0", "intel-vtd", sva=False)], device=DSA.device),
        "dsa0",
    ),
    "enable-pasid.no-prefix-path": (
        "enable_pasid",
        "EINVAL",
        smmu(DeviceSpec("npu", "smmu0", pasid_bits=4, prefix_path=False)),
        "npu",
    ),
    "enable-pasid.no-acs": (
        "enable_pasid",
        "EINVAL",
        smmu(DeviceSpec("npu", "smmu0", pasid_bits=4, acs_path=False)),
        "npu",
    ),
    "enable-sva.unsupported": (
        "enable_feature",
        "ENODEV",
        MachineSpec(kernel="v6.15", device=BEHIND_NONE.device),
        "npu",
    ),
    "alloc-global.none": ("alloc_global", "ENOSPC", smmu(DeviceSpec("npu", "smmu0", "narrow", pasid_bits=0)), "npu"),
    "replace.no-such-call": (
        "replace",
        "ENOSYS",
        MachineSpec(kernel="v6.12", iommu=DSA.iommu, device=DSA.device),
        "dsa0",
    ),
    "dma-owner.no-group": ("claim_owner", "ENODEV", BEHIND_NONE, "npu"),
    "lam.no-cpu": ("lam", "ENODEV", NARROW, "npu"),
    "portal.none": ("mmap", "ENODEV", NARROW, "npu"),
}


@pytest.mark.parametrize("rule", SHOWN)
def test_a_machine_that_has_the_cause_shows_the_check(rule: str) -> None:
    call, result, machine, device = SHOWN[rule]
    answer = explain(Question(call, result, machine, device))
    assert ids(answer)[0] == rule
    first = answer.causes[0]
    assert first.standing is Standing.SHOWN
    assert answer.ran is not None
    assert (answer.ran.rule, answer.ran.result) == (rule, result)
    assert (first.why, first.fact) == (answer.ran.why, "")


def test_the_deeper_cause_of_a_refused_queue_comes_second() -> None:
    machine = MachineSpec(
        kernel="v6.15",
        cpu=CpuSpec(la57=True),
        iommu=[IommuSpec("dmar0", "intel-vtd", five_level=False)],
        device=DSA.device,
    )
    answer = explain(Question("enable_wq", machine=machine))
    assert ids(answer)[:2] == ["idxd.no-shared-queues", "intel.svm-no-5-level"]
    assert answer.causes[1].remedy == "boot with no5lvl"


def test_where_the_feature_is_not_asked_for_the_bind_tells_the_deeper_cause() -> None:
    unit = IommuSpec("dmar0", "intel-vtd", pasid_bits=0)
    answer = explain(Question("enable_wq", machine=MachineSpec(kernel="v6.16", iommu=[unit], device=DSA.device)))
    assert ids(answer)[:2] == ["idxd.queue-without-pasids", "bind.device-without-pasids"]


def test_why_pasid_is_off_is_told_behind_the_refusal_of_sva() -> None:
    device = DeviceSpec("gpu", "dmar0", pasid_bits=20, prefix_path=False)
    answer = explain(Question("bind", "EINVAL", MachineSpec(iommu=DSA.iommu, device=[device])))
    assert ids(answer)[:2] == ["intel.sva-no-pasid-or-ats", "enable-pasid.no-prefix-path"]


# --- states --------------------------------------------------------------------------------------------------------

STATES = {
    (
        "bind.no-number-free",
        "bind",
        "ENOSPC",
    ): "if other processes and drivers hold every number that the device carries",
    (
        "bind.number-too-wide",
        "bind",
        "EOVERFLOW",
    ): "if the process got a number before that the device cannot carry, which it keeps for life",
    ("handle-get.other-type", "bind", "EBUSY"): "if user space (iommufd) has that number of the device attached",
    ("attach.slot-taken", "bind", "EBUSY"): "if a kernel driver has that number of the device attached",
    ("attach.reset", "bind", "EBUSY"): "if a device of the group is being reset",
    ("bind.no-memory-for-handle", "bind", "ENOMEM"): "if memory has run out",
    ("attach.pasid-zero", "attach", "EINVAL"): "if the caller names PASID 0",
    (
        "attach.beyond-max-pasids",
        "attach",
        "EINVAL",
    ): "if the caller names a number that a member of the group cannot carry",
    ("replace.empty-slot", "replace", "EINVAL"): "if nothing is attached to that number",
    ("dma-owner.pasids-attached", "claim_owner", "EBUSY"): "if a kernel driver has that number of the device attached",
    ("dma-owner.other-owner", "claim_owner", "EPERM"): "if somebody else has claimed the group",
}


@pytest.mark.parametrize(("rule", "call", "result"), STATES)
def test_a_state_that_leads_to_a_check_is_shown_on_the_model(rule: str, call: str, result: str) -> None:
    answer = explain(Question(call, result, NARROW, "npu"))
    cause = next(cause for cause in answer.causes if cause.rule.id == rule)
    assert cause.standing is Standing.FITS
    assert cause.fact == STATES[rule, call, result]
    assert "npu" in cause.why or "the group" in cause.why or "replacing" in cause.why


def test_a_call_that_succeeds_on_the_model_is_said_to() -> None:
    answer = explain(Question("bind", "ENOSPC", NARROW, "npu"))
    assert answer.ran is not None
    assert answer.ran.result == "ok"
    assert answer.notes == ["on the model, with a process that has done nothing yet, the call succeeds"]
    assert standings(answer)["bind.device-without-pasids"] is Standing.RULED_OUT
    carried = next(cause.fact for cause in answer.ruled_out if cause.rule.id == "bind.device-without-pasids")
    assert carried == "npu carries 1..3 (max_pasids: its own 4, its IOMMU's 65536)"


def test_a_number_too_wide_needs_a_device_that_carries_more() -> None:
    answer = explain(Question("bind", "EOVERFLOW", smmu(DeviceSpec("npu", "smmu0", pasid_bits=4))))
    assert not answer.causes
    assert answer.ruled_out[0].fact.endswith("no other device of the machine carries numbers that npu does not")
    assert "no check of iommu_sva_bind_device gives EOVERFLOW on this machine" in answer.notes


def test_an_earlier_check_rules_out_the_later_ones() -> None:
    answer = explain(Question("bind", machine=BEHIND_NONE))
    tagged = next(cause for cause in answer.ruled_out if cause.rule.id == "bind.no-number-free")
    assert tagged.fact == (
        "even if other processes and drivers hold every number that the device carries, the call meets bind.no-group "
        "(ENODEV)"
    )


def test_a_kernel_whose_options_are_unknown_may_lack_sva() -> None:
    answer = explain(Question("bind", "ENODEV", NARROW, "npu"))
    assert ids(answer) == ["bind.not-built"]
    assert answer.causes[0].fact == "the machine's description says nothing of kernel options"
    known = MachineSpec(config={"IOMMU_SVA": True}, iommu=NARROW.iommu, device=NARROW.device)
    assert standings(explain(Question("bind", "ENODEV", known, "npu")))["bind.not-built"] is Standing.RULED_OUT


def test_lam_keeps_an_x86_process_from_binding_and_is_kept_by_it() -> None:
    assert ids(explain(Question("bind", "EBUSY", DSA)))[0] == "bind.page-table-not-dma-compatible"
    assert ids(explain(Question("lam", "EINVAL", DSA)))[0] == "lam.has-pasid"
    arm = explain(Question("bind", "EBUSY", NARROW, "npu"))
    assert standings(arm)["bind.page-table-not-dma-compatible"] is Standing.RULED_OUT


def test_enqcmd_dies_without_a_bind_in_a_fork_and_after_exec() -> None:
    answer = explain(Question("enqcmd", "SIGSEGV", DSA))
    assert ids(answer)[:3] == ["traps.gp-no-number", "traps.gp-no-number", "traps.gp-already-activated"]
    assert [cause.fact for cause in answer.causes[:3]] == [
        "if the process has bound no device",
        "if the process is a child of the one that bound, and a fork inherits no number",
        "if the task used ENQCMD, called exec, and bound again",
    ]


def test_another_process_can_have_the_dedicated_queue() -> None:
    dedicated = DeviceSpec("dsa0", "dmar0", "dsa", pasid_bits=20, queue="dedicated")
    answer = explain(Question("open", "EBUSY", MachineSpec(iommu=DSA.iommu, device=[dedicated])))
    assert ids(answer)[0] == "idxd.dedicated-busy"


def test_a_narrow_sibling_refuses_once_the_low_numbers_are_held() -> None:
    pair = (DeviceSpec("gpu", "smmu0", group="g", pasid_bits=4), DeviceSpec("nic", "smmu0", group="g", pasid_bits=2))
    answer = explain(Question("bind", "EINVAL", smmu(*pair), "gpu"))
    assert ids(answer)[0] == "attach.beyond-max-pasids"
    assert answer.causes[0].why == "nic, in the group of gpu, carries 1..3: 4 does not fit"


# --- designs, drivers in between -----------------------------------------------------------------------------------


def test_a_design_without_a_call_says_so() -> None:
    assert ids(explain(Question("bind_pasid", "ENOSYS", NARROW, "npu"))) == ["scheme.no-such-call"]


def test_v2_refuses_the_other_kind_of_bind_for_life() -> None:
    answer = explain(Question("bind_pasid", "EBUSY", NARROW, "npu", scheme="v2"))
    assert ids(answer)[0] == "v2.mode-differs"


def test_a_driver_that_swallows_the_errno_hides_the_models_answer() -> None:
    machine = smmu(DeviceSpec("npu", "smmu0", "narrow", pasid_bits=0))
    answer = explain(Question("bind", "EINVAL", machine))
    assert (answer.causes[0].rule.id, answer.causes[0].result) == ("bind.device-without-pasids", "ENOSPC")
    assert "uio_pci_generic_sva: gives EINVAL for all of them and prints nothing" in answer.notes
    assert ids(answer).count("bind.device-without-pasids") == 1


def test_a_driver_that_gives_an_errno_by_itself_is_named() -> None:
    notes = explain(Question("bind", "ENODEV")).notes
    assert notes == ["uacce gives ENODEV by itself, too [uacce.pasid-invalid]"]


# --- large and used machines ---------------------------------------------------------------------------------------


def test_a_large_machine_is_run_with_the_devices_that_matter() -> None:
    many = [DeviceSpec(f"dev{index}", "smmu0", pasid_bits=1) for index in range(200)]
    wide = DeviceSpec("wide", "smmu0", pasid_bits=16)
    machine = smmu(*many, wide, ssid_bits=16)
    scene = Scene(machine, "dev7")
    assert [device.name for device in scene.machine.device] == ["dev7", "wide"]
    assert len(machine.device) > MOST_KEPT
    assert ids(explain(Question("bind", "EOVERFLOW", machine, "dev7"))) == ["bind.number-too-wide"]


def test_a_virtual_function_keeps_its_physical_one() -> None:
    functions = [DeviceSpec(f"vf{index}", "smmu0", physfn="pf") for index in range(40)]
    machine = smmu(DeviceSpec("pf", "smmu0", pasid_bits=4), *functions, ssid_bits=16)
    assert [device.name for device in Scene(machine, "vf3").machine.device] == ["pf", "vf3"]


def test_processes_of_the_machine_keep_their_names() -> None:
    machine = MachineSpec(iommu=DSA.iommu, device=DSA.device, process=[ProcessSpec("caller"), ProcessSpec("caller2")])
    assert Scene(machine).stage().process == "caller3"


def test_an_answer_is_a_record_for_programs() -> None:
    record = explain(Question("bind", "ENOSPC", NARROW, "npu")).as_dict()
    assert record["call"] == "bind"
    assert record["model"] == {
        "result": "ok",
        "rule": "bind.domain-new",
        "why": "npu got a domain of its own for caller",
    }
    assert record["causes"][0]["rule"] == "bind.no-number-free"
    assert record["causes"][0]["standing"] == "fits"
    assert [cause["rule"] for cause in record["ruled_out"]] == ["bind.device-without-pasids"]


def test_what_a_device_has_on_is_what_its_probe_came_to() -> None:
    device = DeviceSpec("d", "dmar0", pasid_bits=20, acs_path=False)
    spec = MachineSpec(iommu=[IommuSpec("dmar0", model="intel-vtd")], device=[device])
    answer = explain(Question("enable_pasid", machine=spec, device="d"))
    facts = {cause.rule.id: cause.fact for cause in answer.ruled_out}
    assert facts["enable-pasid.already"] == "d has PASID off, ATS on, page requests on"
