"""Texts as the kernel's debugfs prints them, from entries that lie in a modelled unit's memory or are given."""

from collections.abc import Iterable, Iterator, Mapping

from pasidlab.hw.smmuv3.structures import Ste
from pasidlab.hw.vtd import inspect
from pasidlab.hw.vtd.contexts import DeviceContext
from pasidlab.hw.vtd.registers import Offset
from pasidlab.hw.vtd.structures import PasidEntry, ScalableContextEntry
from pasidlab.hw.vtd.unit import RemappingUnit
from pasidlab.words import Word

TABLE_HEAD = "B.D.F\tRoot_entry\t\t\t\tContext_entry\t\t\t\tPASID\tPASID_table_entry\n"
REGSET = (Offset.VER, Offset.GSTS, Offset.FSTS, Offset.CAP, Offset.ECAP, Offset.RTADDR, Offset.IQA, Offset.PQA)


def row(source: int, root: Word, context: Word, pasid: int = -1, entry: int = 0) -> str:
    """Print a line as print_tbl_walk() does."""
    name = f"{source >> 8:02x}:{source >> 3 & 0x1F:02x}.{source & 7:x}"
    low, high = (words[index] for index in (0, 1) for words in [context.words])
    words = PasidEntry(entry).words
    shown = ":".join(f"0x{words[index]:016x}" for index in (2, 1, 0))
    return f"{name}\t0x{root.words[1]:016x}:0x{root.words[0]:016x}\t0x{high:016x}:0x{low:016x}\t{pasid:<6d}\t{shown}\n"


def tables(name: str, rows: Iterable[str], root: int = 0x1000) -> str:
    return f"IOMMU {name}: Root Table Address: {root:#x}\n{TABLE_HEAD}{''.join(rows)}\n"


def registers(name: str, base: int, values: Mapping[str, tuple[int, int]]) -> str:
    """Print registers as iommu_regset_show() does."""
    rows = "".join(f"{key:<16}\t0x{offset:02x}\t\t0x{value:016x}\n" for key, (offset, value) in values.items())
    return f"IOMMU: {name} Register Base Address: {base:x}\nName\t\t\tOffset\t\tContents\n{rows}\n"


def unit_tables(name: str, unit: RemappingUnit) -> str:
    """Print what lies in a unit's memory."""
    return tables(name, _rows(unit), inspect.root_table(unit).address)


def _rows(unit: RemappingUnit) -> Iterator[str]:
    for bus in inspect.root_entries(unit):
        assert bus.word is not None
        for place in inspect.context_entries(unit, bus.key, bus.word):
            if not isinstance(place.word, ScalableContextEntry) or not place.word.p:
                continue
            context = inspect.context(unit, place.word)
            assert isinstance(context, DeviceContext)
            for directory in inspect.directory_entries(unit, context):
                assert directory.word is not None
                for entry in inspect.pasid_entries(unit, directory.key, directory.word):
                    if entry.word is not None and entry.word.p:
                        yield row(place.key, bus.word, place.word, entry.key, entry.word)


def unit_registers(name: str, unit: RemappingUnit, base: int = 0xFED90000) -> str:
    values = {offset.name: (int(offset), int(inspect.register(unit, offset))) for offset in REGSET}
    return registers(name, base, values)


def ste(sid: int, entry: Ste) -> str:
    """Print an entry as smmu_debugfs_ste_show() does."""
    words = "".join(f"    STE[{index}]: 0x{word:016x}\n" for index, word in enumerate(entry.words))
    config = {4: "BYPASS", 5: "only S1_TRANS", 6: "only S2_TRANS", 7: "S1+S2_TRANS", 0: "ABORT"}.get(entry.config)
    head = f"STE for Stream ID {sid}\n  Valid: {'Yes' if entry.v else 'No'}\n  Config: {config or 'UNKNOWN'}\n"
    pointer = f"  S1ContextPtr: 0x{entry.s1contextptr:016x}\n" if entry.config in (5, 7) else ""
    return f"{head}{pointer}  Raw Data:\n{words}"


def capabilities(**changed: str) -> str:
    values = {
        "Stage1 Translation": "Yes",
        "Stage2 Translation": "Yes",
        "Coherent Walk": "Yes",
        "ATS Support": "Yes",
        "PRI Support": "No",
        "Stream Table Size": "65536",
        "Command Queue Depth": "256",
        "Event Queue Depth": "128",
    } | {key.replace("_", " "): value for key, value in changed.items()}
    return "SMMUv3 Capabilities:\n" + "".join(f"  {key}: {value}\n" for key, value in values.items())


def smmu_registers(**values: int) -> str:
    return "SMMUv3 Key Registers:\n" + "".join(f"{name}: 0x{value:08x}\n" for name, value in values.items())
