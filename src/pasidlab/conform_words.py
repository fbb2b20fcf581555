"""Rebuild and rewrite recorded entries of an SMMU: what the real driver built, and what lay in memory at each sync.

A record (`pasidlab.records.EntryUpdate`) was made by the functions of Linux's arm-smmu-v3 driver. Four things are
compared word by word: both entries as built from their parameters, the bits that the hardware uses of the new one, the
entry in memory at each sync on the way from one to the other with the last state, and the number of syncs.

A record does not say which kernel made it. The caller may; else a version in the file's name counts; else the file is
held against both witnessed kernels, and the one that differs less is the one that is reported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pasidlab.drivers.arm_smmu_v3.entries import (
    CdTable,
    CpuRegisters,
    Features,
    Stage1Config,
    Stage2Config,
    arm_smmu_make_abort_ste,
    arm_smmu_make_bypass_ste,
    arm_smmu_make_cdtable_ste,
    arm_smmu_make_s1_cd,
    arm_smmu_make_s2_domain_ste,
    arm_smmu_make_sva_cd,
)
from pasidlab.drivers.arm_smmu_v3.used import arm_smmu_get_cd_used, arm_smmu_get_ste_used
from pasidlab.drivers.arm_smmu_v3.writer import arm_smmu_cd_writer, arm_smmu_ste_writer, arm_smmu_write_entry
from pasidlab.errors import InputError
from pasidlab.hw.smmuv3.structures import AddressSize, Cd, Ste, Tg0
from pasidlab.linux.profiles import PROFILES, V6_12, V7_3, Profile
from pasidlab.records import (
    AbortParams,
    BypassParams,
    CdTableParams,
    CdUpdate,
    Lines,
    S1Params,
    S2Params,
    SteUpdate,
    SvaParams,
    SvaReleaseParams,
    ZeroParams,
    read_updates,
)

RECORDED_CPU = CpuRegisters(t0sz=12, tg0=Tg0.GRANULE_4K, ips=AddressSize.BITS_52, mair=0x4_0044_FFFF)
"""The CPU that the records were made on; its kernel does not use FEAT_HAFT."""
_TRIED = (V7_3, V6_12)
"""The kernels that a file is held against when nothing tells which one made it."""

Update = SteUpdate | CdUpdate
Recorded = list[str] | int | None


@dataclass(frozen=True, slots=True)
class WordDifference:
    """One entry, mask or count that the model has otherwise; `fields` name what differs in it, with both values."""

    line: int
    update: str
    what: str
    recorded: Recorded
    model: Recorded
    fields: dict[str, list[int]]

    def __str__(self) -> str:
        shown = "".join(
            f"\n  {name:<8} {recorded:#x}, in the model {model:#x}" for name, (recorded, model) in self.fields.items()
        )
        texts = f"\n  recorded {_text(self.recorded)}\n  model    {_text(self.model)}"
        return f"line {self.line} ({self.update}), {self.what}{texts}{shown}"


@dataclass(slots=True)
class WordSummary:
    """What one file gave under one kernel."""

    path: str
    kernel: str
    entries: int = 0
    words: int = 0
    differences: list[WordDifference] = field(default_factory=list)

    def __str__(self) -> str:
        counts = f"{self.entries} entries, {self.words} words, {len(self.differences)} differ"
        return f"{self.path}: {counts} ({self.kernel})"

    def as_dict(self) -> dict[str, Any]:
        """Return the counts for JSON."""
        counts = {"entries": self.entries, "words": self.words, "differ": len(self.differences)}
        return {"path": self.path, "summary": True, "kernel": self.kernel, **counts}


def conform_words_file(
    path: Path,
    kernel: Profile | None = None,
    progress: Callable[[int], None] = lambda entries: None,
    lines: Lines | None = None,
) -> WordSummary:
    """Compare every update of a .jsonl or .jsonl.gz file; InputError names file and line of what cannot be read."""
    tried = _kernels(path, kernel)
    summaries = [WordSummary(str(path), profile.name) for profile in tried]
    for number, update in read_updates(path, lines):
        for profile, summary in zip(tried, summaries, strict=True):
            summary.entries += 1
            summary.words += sum(len(image.words) for _, image in _images(update))
            summary.differences += compare(update, profile, number)
        progress(summaries[0].entries)
    if not summaries[0].entries:
        raise InputError(f"{path}: no entry in it; a record is one JSON object a line")
    return min(summaries, key=lambda summary: len(summary.differences))


def _kernels(path: Path, kernel: Profile | None) -> tuple[Profile, ...]:
    if kernel:
        return (kernel,)
    versions = re.findall(r"(?<![\d.])\d+\.\d+", path.name)
    named = [PROFILES[f"v{version}"] for version in versions if f"v{version}" in PROFILES]
    return tuple(named[:1]) or _TRIED


def compare(update: Update, profile: Profile, line: int = 0) -> list[WordDifference]:
    """Return what the model has otherwise than the record."""
    title = f"entry {update.n}, {_tag(update)} {_tag(update.from_params)} to {_tag(update.to_params)}"
    recorded = dict(_images(update))
    model = dict(_model(update, profile))
    differences = []
    for what in dict.fromkeys([*recorded, *model]):
        ours, theirs = model.get(what), recorded.get(what)
        if ours != theirs:
            fields = _fields(_kind(update), theirs, ours)
            differences.append(WordDifference(line, title, what, _hex(theirs), _hex(ours), fields))
    syncs = sum(what.startswith("sync") for what in model)
    if syncs != update.syncs:
        differences.append(WordDifference(line, title, "syncs", update.syncs, syncs, {}))
    return differences


# --- the record --------------------------------------------------------------------------------------------------


def _images(update: Update) -> Iterator[tuple[str, Ste | Cd]]:
    """Yield every recorded entry and mask by its key."""
    syncs = {"sync0": update.sync0, "sync1": update.sync1, "sync2": update.sync2}
    always = {"from": update.from_, "to": update.to, "to_used": update.to_used}
    for key, image in (always | syncs | {"final": update.final}).items():
        if image is not None:
            yield key, _word(update, image)


def _word(update: Update, image: list[str]) -> Ste | Cd:
    return _kind(update).from_words(*(int(word, 16) for word in image))


def _kind(update: Update) -> type[Ste] | type[Cd]:
    return Ste if isinstance(update, SteUpdate) else Cd


# --- the model ---------------------------------------------------------------------------------------------------


def _model(update: Update, profile: Profile) -> Iterator[tuple[str, Ste | Cd]]:
    """Yield what the model has under the same keys; it starts from the recorded entries, not from its own."""
    if isinstance(update, SteUpdate):
        yield "from", build_ste(update.from_params)
        yield "to", build_ste(update.to_params)
    else:
        yield "from", build_cd(update.from_params, profile)
        yield "to", build_cd(update.to_params, profile)
    yield "to_used", _used(_word(update, update.to), profile)
    yield from _replay(_word(update, update.from_), _word(update, update.to), profile)


def _used(target: Ste | Cd, profile: Profile) -> Ste | Cd:
    if isinstance(target, Ste):
        return Ste(arm_smmu_get_ste_used(target, profile))
    return Cd(arm_smmu_get_cd_used(target))


def _replay(entry: Ste | Cd, target: Ste | Cd, profile: Profile) -> Iterator[tuple[str, Ste | Cd]]:
    """Write one entry over the other, and yield what is in memory at each sync and at the end."""
    memory = list(entry.words)
    seen: list[list[int]] = []

    def store(index: int, value: int) -> None:
        memory[index] = value

    def sync() -> None:
        seen.append(memory.copy())

    if isinstance(entry, Ste):
        arm_smmu_write_entry(arm_smmu_ste_writer(profile, store, sync), entry, Ste(target))
    else:
        arm_smmu_write_entry(arm_smmu_cd_writer(store, sync), entry, Cd(target))
    for number, image in enumerate(seen):
        yield f"sync{number}", type(entry).from_words(*image)
    yield "final", type(entry).from_words(*memory)


def build_ste(params: AbortParams | BypassParams | CdTableParams | S2Params) -> Ste:
    """Return the stream table entry that the driver makes of the parameters."""
    features = Features(
        attr_types_ovr=bool(params.feat_attr_types_ovr), e2h=bool(params.feat_e2h), stalls=bool(params.feat_stalls)
    )
    usage = {"stall_enabled": bool(params.stall_enabled), "ats_enabled": bool(params.ats)}
    match params:
        case AbortParams():
            return arm_smmu_make_abort_ste()
        case BypassParams():
            return arm_smmu_make_bypass_ste(features)
        case CdTableParams():
            cd_table = CdTable(cdtab_dma=int(params.cdtab, 16), s1fmt=params.s1fmt, s1cdmax=params.s1cdmax)
            return arm_smmu_make_cdtable_ste(features, cd_table, params.s1dss, **usage)
        case S2Params():
            return arm_smmu_make_s2_domain_ste(features, params.vmid, _stage_2(params), **usage)


def _stage_2(params: S2Params) -> Stage2Config:
    return Stage2Config(
        vttbr=int(params.vttbr, 16),
        tsz=params.tsz,
        sl=params.sl,
        tg=params.tg,
        irgn=params.irgn,
        orgn=params.orgn,
        sh=params.sh,
        ps=params.ps,
    )


def build_cd(params: ZeroParams | S1Params | SvaParams | SvaReleaseParams, profile: Profile) -> Cd:
    """Return the context descriptor that the driver makes of the parameters."""
    stall_enabled = bool(params.stall_enabled)
    if isinstance(params, ZeroParams):
        return Cd()
    if isinstance(params, S1Params):
        return arm_smmu_make_s1_cd(params.asid, _stage_1(params), stall_enabled=stall_enabled)
    features = Features(
        stall_force=bool(params.feat_stall_force),
        ha=bool(params.feat_ha),
        hd=bool(params.feat_hd),
        haft=bool(params.feat_haft),
    )
    pgd = int(params.pgd_pa, 16) if isinstance(params, SvaParams) else None
    return arm_smmu_make_sva_cd(features, RECORDED_CPU, pgd, params.asid, profile, stall_enabled=stall_enabled)


def _stage_1(params: S1Params) -> Stage1Config:
    return Stage1Config(
        ttbr=int(params.ttbr, 16),
        mair=int(params.mair, 16),
        tsz=params.tsz,
        tg=params.tg,
        irgn=params.irgn,
        orgn=params.orgn,
        sh=params.sh,
        ips=params.ips,
        hd=bool(params.hd),
    )


# --- words for people --------------------------------------------------------------------------------------------


def _tag(struct: Any) -> str:
    return str(struct.__struct_config__.tag)


def _hex(image: Ste | Cd | None) -> list[str] | None:
    return None if image is None else [f"{word:x}" for word in image.words]


def _text(value: Recorded) -> str:
    return " ".join(value) if isinstance(value, list) else str(value).lower()


def _fields(kind: type[Ste] | type[Cd], recorded: int | None, model: int | None) -> dict[str, list[int]]:
    """Return the fields that differ, with the recorded value and the model's; bits of no field are `reserved`."""
    if recorded is None or model is None:
        return {}
    pairs = zip(kind(recorded).values(), kind(model).values(), strict=True)
    found = {one.field.name: [one.value, other.value] for one, other in pairs if one.value != other.value}
    bits = [kind(recorded).reserved, kind(model).reserved]
    return found | ({"reserved": bits} if bits[0] != bits[1] else {})
