"""From StreamID and SubstreamID to a configuration: stream table, STE, CD table, CD.

Each step reads memory, notes the access with the rule it applied, and ends in a configuration or in a `BadConfig`
with its event. What was read is cached until a CFGI command removes it: STEs by StreamID, CDs by StreamID and
SubstreamID, and the level 1 descriptors on the way, which CFGI with Leaf=1 leaves alone.

Source: IHI 0070 G.b, 3.3 (data structures), 3.4.3 (addresses out of range), 3.9 and 5.2 (S1DSS), 5.1 to 5.4
(formats), 7.3.22 (order of checks).
Decided where the architecture leaves a choice: the address of an STE beyond the output address size is an abort of its
fetch; an L1CD.L2Ptr beyond it is C_BAD_SUBSTREAMID with stage 2, too, as it must be without.
Not modelled: STE.CONT (neighbouring STEs are read one by one); virtual machine structures (VMS).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pasidlab.hw.cache import Cache, PairCache
from pasidlab.hw.pagetable.contract import Access, Touch, WalkFault
from pasidlab.hw.pagetable.walker import walk
from pasidlab.hw.smmuv3.contexts import Context, Decoder, Stream
from pasidlab.hw.smmuv3.features import Features
from pasidlab.hw.smmuv3.interface import Interface
from pasidlab.hw.smmuv3.records import (
    CBadCd,
    CBadSte,
    CBadStreamid,
    CBadSubstreamid,
    Event,
    FCdFetch,
    FSteFetch,
    FStreamDisabled,
)
from pasidlab.hw.smmuv3.spec import SPEC
from pasidlab.hw.smmuv3.structures import L1Cd, L1Std, S1Dss, Ste
from pasidlab.hw.smmuv3.tables import CD_BYTES, STE_BYTES, StreamTable, level2_stes, stream_table_of
from pasidlab.hw.smmuv3.target import Regime
from pasidlab.memory import Memory
from pasidlab.rules import Rule

SID_RANGE = Rule(
    "smmu.sid-range",
    f"{SPEC}, 3.3.1",
    "StreamID >= 2^STRTAB_BASE_CFG.LOG2SIZE",
    "stream {sid:#x} is beyond the stream table",
    source=SPEC,
)
L1STD_SPAN = Rule(
    "smmu.l1std-span",
    f"{SPEC}, 5.1 L1STD.Span",
    "Span is 0, reserved, above SPLIT + 1, or the stream is beyond it",
    "the stream table has no level 2 entry for stream {sid:#x}",
    source=SPEC,
)
L1STD_ABORT = Rule(
    "smmu.l1std-abort",
    f"{SPEC}, 7.3 F_STE_FETCH",
    "external abort on the level 1 descriptor",
    "the level 1 stream table descriptor of stream {sid:#x} cannot be read",
    source=SPEC,
)
STE_ABORT = Rule(
    "smmu.ste-fetch-abort",
    f"{SPEC}, 7.3 F_STE_FETCH",
    "external abort on the STE",
    "the STE of stream {sid:#x} cannot be read",
    source=SPEC,
)
L1STD_READ = Rule(
    "smmu.l1std-read", f"{SPEC}, 5.1", "Span is in range", "the level 2 stream table is known", source=SPEC
)
STE_READ = Rule("smmu.ste-read", f"{SPEC}, 5.2", "V == 1 and legal", "stream {sid:#x} has a legal STE", source=SPEC)
SSID_WITHOUT_STAGE_1 = Rule(
    "smmu.ssid-without-stage-1",
    f"{SPEC}, 3.9",
    "SSV == 1 and stage 1 is off",
    "stream {sid:#x} has no stage 1, so SubstreamID {ssid} means nothing",
    source=SPEC,
)
SSID_WITHOUT_TABLE = Rule(
    "smmu.ssid-without-table",
    f"{SPEC}, 5.2 STE.S1CDMax",
    "SSV == 1 and S1CDMax == 0",
    "stream {sid:#x} has one CD and no substreams; SubstreamID {ssid} is refused",
    source=SPEC,
)
SSID_RANGE = Rule(
    "smmu.ssid-range",
    f"{SPEC}, 5.2 STE.S1CDMax",
    "SubstreamID >= 2^S1CDMax",
    "SubstreamID {ssid} is beyond the CD table of stream {sid:#x}",
    source=SPEC,
)
S1DSS_TERMINATE = Rule(
    "smmu.s1dss-terminate",
    f"{SPEC}, 5.2 STE.S1DSS",
    "SSV == 0 and S1DSS is 00 or reserved",
    "stream {sid:#x} takes no transaction without SubstreamID",
    source=SPEC,
)
S1DSS_SSID0 = Rule(
    "smmu.s1dss-ssid0",
    f"{SPEC}, 5.2 STE.S1DSS",
    "SubstreamID 0 is given and S1DSS == 10",
    "SubstreamID 0 of stream {sid:#x} stands for transactions without one, and cannot be given",
    source=SPEC,
)
L1CD_INVALID = Rule(
    "smmu.l1cd-invalid",
    f"{SPEC}, 5.3 L1CD.V",
    "V == 0",
    "the CD table of stream {sid:#x} has no leaf for SubstreamID {ssid}",
    source=SPEC,
)
L1CD_RANGE = Rule(
    "smmu.l1cd-range",
    f"{SPEC}, 3.4.3",
    "L1CD.L2Ptr >= 2^OAS",
    "the CD table of stream {sid:#x} has its leaf for SubstreamID {ssid} outside of the address size",
    source=SPEC,
)
L1CD_ABORT = Rule(
    "smmu.l1cd-abort",
    f"{SPEC}, 7.3 F_CD_FETCH",
    "external abort on the level 1 descriptor",
    "the level 1 CD descriptor of stream {sid:#x}, SubstreamID {ssid}, cannot be read",
    source=SPEC,
)
CD_ABORT = Rule(
    "smmu.cd-fetch-abort",
    f"{SPEC}, 7.3 F_CD_FETCH",
    "external abort on the CD",
    "the CD of stream {sid:#x}, SubstreamID {ssid}, cannot be read",
    source=SPEC,
)
L1CD_READ = Rule("smmu.l1cd-read", f"{SPEC}, 5.3", "V == 1", "the leaf of the CD table is known", source=SPEC)
CD_READ = Rule("smmu.cd-read", f"{SPEC}, 5.4", "V == 1 and legal", "the CD is legal", source=SPEC)


@dataclass(frozen=True, slots=True)
class BadConfig:
    """A configuration that translates nothing: the rule, its event, and where the fetch failed if it did.

    `stage2` is the fault of stage 2 under the fetch of a CD, whose event is that fault's own.
    """

    rule: Rule
    event: type[Event]
    fetch_address: int | None = None
    stage2: WalkFault | None = None


Found = Stream | BadConfig
FoundContext = Context | BadConfig
_READ = Access(on_table=True)


class Lookup:
    """The configuration side of one SMMU; `capacity` bounds each cache, 0 switches them off."""

    def __init__(self, memory: Memory, features: Features, interface: Interface, capacity: int) -> None:
        self._memory = memory
        self._features = features
        self._interface = interface
        self._decoder = Decoder(features)
        self._l1stds: Cache[int, L1Std] = Cache(capacity)
        self._streams: Cache[int, Found] = Cache(capacity)
        self._l1cds: PairCache[L1Cd] = PairCache(capacity)
        self._contexts: PairCache[FoundContext] = PairCache(capacity)

    # --- the stream table --------------------------------------------------------------------------------------

    def stream(self, sid: int, touches: list[Touch]) -> Found:
        """Return the configuration of a stream."""
        found = self._streams.get(sid)
        if found is None:
            found = self._find_stream(sid, touches)
            if isinstance(found, Stream) or found.event is CBadSte:
                self._streams.put(sid, found)
        return found

    def _find_stream(self, sid: int, touches: list[Touch]) -> Found:
        place = self._ste_address(sid, touches)
        if isinstance(place, BadConfig):
            return place
        raw = self._fetch(place)
        if raw is None:
            touches.append(Touch(place, None, STE_ABORT, 0, 0))
            return BadConfig(STE_ABORT, FSteFetch, place)
        stream = self._decoder.stream(raw)
        if isinstance(stream, Rule):
            touches.append(Touch(place, raw, stream, 0, 0))
            return BadConfig(stream, CBadSte)
        touches.append(Touch(place, raw, STE_READ, 0, 0))
        return stream

    def _ste_address(self, sid: int, touches: list[Touch]) -> int | BadConfig:
        interface = self._interface
        table = stream_table_of(interface.strtab_base, interface.strtab_base_cfg, self._features.sid_bits)
        if sid >> table.log2size:
            return BadConfig(SID_RANGE, CBadStreamid)
        if not table.split:
            return table.base + sid * STE_BYTES
        descriptor = self._l1std(table, sid, touches)
        if isinstance(descriptor, BadConfig):
            return descriptor
        first, count = level2_stes(descriptor)
        index = sid & ((1 << table.split) - 1)
        return first + index * STE_BYTES if index < count else BadConfig(L1STD_SPAN, CBadStreamid)

    def _l1std(self, table: StreamTable, sid: int, touches: list[Touch]) -> L1Std | BadConfig:
        place = table.level1(sid)
        known = self._l1stds.get(place)
        if known is not None:
            return known
        raw = self._fetch64(place)
        if raw is None:
            touches.append(Touch(place, None, L1STD_ABORT, 0, 1))
            return BadConfig(L1STD_ABORT, FSteFetch, place)
        descriptor = L1Std(raw)
        spans = table.spans(descriptor)
        touches.append(Touch(place, raw, L1STD_READ if spans else L1STD_SPAN, 0, 1))
        if not spans:
            return BadConfig(L1STD_SPAN, CBadStreamid)
        self._l1stds.put(place, descriptor)
        return descriptor

    # --- the CD table ------------------------------------------------------------------------------------------

    def context(self, sid: int, stream: Stream, ssid: int | None, touches: list[Touch]) -> FoundContext | None:
        """Return the context of a transaction of a stream with stage 1; None where S1DSS bypasses stage 1."""
        index = _cd_index(stream, ssid)
        if not isinstance(index, int):
            return index
        found = self._contexts.get((sid, index))
        if found is None:
            found = self._find_context(sid, stream, index, touches)
            if isinstance(found, Context) or found.event is CBadCd:
                self._contexts.put((sid, index), found)
        return found

    def _find_context(self, sid: int, stream: Stream, index: int, touches: list[Touch]) -> FoundContext:
        place = self._cd_address(sid, stream, index, touches)
        if isinstance(place, BadConfig):
            return place
        through = self._through_stage2(stream, place, touches)
        if isinstance(through, BadConfig):
            return through
        raw = self._fetch(through)
        if raw is None:
            touches.append(Touch(through, None, CD_ABORT, 0, 0))
            return BadConfig(CD_ABORT, FCdFetch, through)
        high_half = stream.regime is not Regime.EL2 or self._interface.cr2.e2h
        context = self._decoder.context(raw, stream, high_half=high_half)
        if isinstance(context, Rule):
            touches.append(Touch(through, raw, context, 0, 0))
            return BadConfig(context, CBadCd)
        touches.append(Touch(through, raw, CD_READ, 0, 0))
        return context

    def _cd_address(self, sid: int, stream: Stream, index: int, touches: list[Touch]) -> int | BadConfig:
        """Return the address of a CD, an IPA where stage 2 translates."""
        table = stream.cds
        if not table.split:
            return table.base + index * CD_BYTES
        key = sid, index >> table.split
        l1cd = self._l1cds.get(key)
        if l1cd is None:
            read = self._read_l1cd(stream, table.level1(index), touches)
            if isinstance(read, BadConfig):
                return read
            l1cd = read
            self._l1cds.put(key, l1cd)
        if not l1cd.v:
            return BadConfig(L1CD_INVALID, CBadSubstreamid)
        if l1cd.l2ptr >> self._features.oas_bits:
            return BadConfig(L1CD_RANGE, CBadSubstreamid)
        return table.leaf(l1cd) + (index & ((1 << table.split) - 1)) * CD_BYTES

    def _read_l1cd(self, stream: Stream, place: int, touches: list[Touch]) -> L1Cd | BadConfig:
        through = self._through_stage2(stream, place, touches)
        if isinstance(through, BadConfig):
            return through
        raw = self._fetch64(through)
        if raw is None:
            touches.append(Touch(through, None, L1CD_ABORT, 0, 1))
            return BadConfig(L1CD_ABORT, FCdFetch, through)
        l1cd = L1Cd(raw)
        touches.append(Touch(through, raw, L1CD_READ if l1cd.v else L1CD_INVALID, 0, 1))
        return l1cd

    def _through_stage2(self, stream: Stream, address: int, touches: list[Touch]) -> int | BadConfig:
        """Translate the address of a CD or L1CD by stage 2, if there is one."""
        if stream.stage2 is None:
            return address
        leaf = walk(self._memory, stream.stage2, address, _READ, touches)
        return BadConfig(leaf.rule, FCdFetch, stage2=leaf) if isinstance(leaf, WalkFault) else leaf.output

    def _fetch(self, address: int) -> int | None:
        """Read an STE or CD; an address beyond the output address size is an abort too."""
        if address >> self._features.oas_bits:
            return None
        data = self._memory.load(address, STE_BYTES)
        return None if data is None else int.from_bytes(data, "little")

    def _fetch64(self, address: int) -> int | None:
        """Read a level 1 descriptor."""
        return None if address >> self._features.oas_bits else self._memory.load64(address)

    # --- looking -----------------------------------------------------------------------------------------------

    @property
    def cached_streams(self) -> Mapping[int, Found]:
        """The configuration that is kept for each StreamID."""
        return MappingProxyType(self._streams.entries)

    @property
    def cached_contexts(self) -> Mapping[tuple[int, int], FoundContext]:
        """The context that is kept for each StreamID and SubstreamID."""
        return MappingProxyType(self._contexts.entries)

    @property
    def cached_level1(self) -> tuple[int, int]:
        """How many level 1 descriptors are kept: of the stream table, of CD tables."""
        return len(self._l1stds.entries), len(self._l1cds.entries)

    # --- invalidation ------------------------------------------------------------------------------------------

    def forget_stream(self, sid: int, leaf: bool) -> None:
        """CFGI_STE: the STE and every CD that was found through it, and without Leaf the level 1 descriptors."""
        self._streams.drop(sid)
        self.forget_contexts(sid)
        if not leaf:
            self._l1stds.clear()

    def forget_streams(self, first: int, lg2: int) -> None:
        """CFGI_STE_RANGE: 2**`lg2` streams, aligned."""
        self._streams.drop_where(lambda sid: sid >> lg2 == first >> lg2)
        self._contexts.drop_where(lambda key: key[0] >> lg2 == first >> lg2)
        self._l1cds.drop_where(lambda key: key[0] >> lg2 == first >> lg2)
        self._l1stds.clear()

    def forget_context(self, sid: int, ssid: int, leaf: bool) -> None:
        """CFGI_CD: one CD, and without Leaf the level 1 descriptors of the stream's CD table."""
        self._contexts.drop((sid, ssid))
        if not leaf:
            self._l1cds.drop_first(sid)

    def forget_contexts(self, sid: int) -> None:
        """CFGI_CD_ALL: every CD and level 1 descriptor of a stream's CD table."""
        self._contexts.drop_first(sid)
        self._l1cds.drop_first(sid)

    def forget_all(self) -> None:
        """CFGI_ALL."""
        for cache in (self._l1stds, self._streams, self._l1cds, self._contexts):
            cache.clear()


def _cd_index(stream: Stream, ssid: int | None) -> int | BadConfig | None:
    """Return which CD a transaction uses, by the rules of S1CDMax and S1DSS; None bypasses stage 1."""
    bits = stream.cds.bits
    if not bits:
        return 0 if ssid is None else BadConfig(SSID_WITHOUT_TABLE, CBadSubstreamid)
    if ssid is None:
        return _without_ssid(stream.ste)
    if ssid >> bits:
        return BadConfig(SSID_RANGE, CBadSubstreamid)
    if ssid == 0 and stream.ste.s1dss is S1Dss.SSID0:
        return BadConfig(S1DSS_SSID0, FStreamDisabled)
    return ssid


def _without_ssid(ste: Ste) -> int | BadConfig | None:
    if ste.s1dss is S1Dss.SSID0:
        return 0
    return None if ste.s1dss is S1Dss.BYPASS else BadConfig(S1DSS_TERMINATE, FStreamDisabled)
