"""A rule's sentence where its facts are not known: `process P has number N for life, and the device carries 1..M`.

Decided here: letters stand for what differs from case to case; what only adds to a sentence is left out.
"""

from __future__ import annotations

import re

from pasidlab.rules import Rule

FACTS = {
    "asked": "the other kind of",
    "bound": "M",
    "count": "N",
    "dev": "the device",
    "devices": "the group",
    "first": "one kind of",
    "held": "something else",
    "instruction": "the instruction",
    "lacking": "a feature",
    "limit": "N",
    "member": "another device",
    "missing": "PASIDs for users",
    "mm": "P",
    "owner": "P",
    "pasid": "N",
    "physfn": "its physical function",
    "range": "1..M",
    "submit": "something else",
    "unit": "the remapping unit",
    "wq": "Q",
}
"""What stands for a fact."""
SENTENCES = {
    "arm-smmu-v3.cd-out-of-bounds": "the core let {dev} have a PASID that its CD table has no place for: the driver"
    " writes beyond the table",
    "arm-smmu-v3.pri-denied": "the SMMU's driver did not expect a page request of that stream, and denies it",
    "dma.page-not-there": "{dev} may not access a page of P under PASID N, and does not ask for the page",
    "driver.no-numbers": "{dev} carries 1..M, and its driver's own numbers would start beyond",
    "driver.numbers-exhausted": "{dev} carries 1..M, and its driver has given them all out",
    "idxd.command-refused": "{dev} refused the command; its error says why",
    "idxd.completed-with-error": "{dev} completed the descriptor with an error; its status says which",
    "idxd.queue-without-pasids": "{dev} does not enable a queue that tags accesses with PASIDs, since it has none",
    "intel.feature-inconsistent": "the remapping units differ in a feature; what is decided for all of them goes"
    " without",
    "lam.bits": "1 to 6 tag bits are possible",
    "policy.too-narrow": "{dev} carries fewer numbers than the chosen policy asks of a device",
    "quota.device": "as many numbers are attached to {dev} as the quota allows",
    "quota.user": "the processes of one user hold as many numbers as the quota allows",
    "replace.no-such-call": "kernels before 6.15 have no iommu_replace_device_pasid()",
    "rfc.device-full": "{dev} carries 1..M, and each of them is attached",
    "scheme.no-such-call": "the design that the kernel runs has no such call",
    "traps.gp-already-activated": "IA32_PASID of the thread was loaded once already, so the #GP is a real one",
    "traps.gp-no-number": "process P has no number for ENQCMD: no normal bind has succeeded",
    "traps.gp-other": "the CPU has no ENQCMD",
    "traps.undefined": "the CPU does not have the instruction",
    "v2.other-number-live": "process P has a live bond under another number, and gets no second one",
}
"""Sentences of rules of which little is left without facts."""
_FACT = re.compile(r"\{(\w+)[^}]*\}")
_STATUS = re.compile(r" (?:\(cmd_status|with error) \{status[^}]*\}\)?(?:, \{error\})?")
"""Numbers that only add to a sentence."""
_EMPTY = re.compile(r" \(\)|: *$|\s+(?=[;,.]|\s|$)")
"""What is left where an explanation that only adds to a sentence is not known."""


def sentence_of(rule: Rule, device: str = "") -> str:
    """Return the sentence of a rule, whatever the facts but the device."""
    known = FACTS | ({"dev": device} if device else {})
    text = _FACT.sub(lambda fact: known.get(fact[1], ""), _STATUS.sub("", SENTENCES.get(rule.id, rule.why)))
    return _EMPTY.sub("", text)
