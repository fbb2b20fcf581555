"""Records of the real SMMU driver, rebuilt and rewritten: all 600, what makes them differ, and what is no record."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pasidlab.conform_words import conform_words_file
from pasidlab.errors import InputError
from pasidlab.linux.profiles import V6_12, V7_3, Profile

from .conftest import Command

DATA = Path(__file__).parent / "data"
FILES = {"smmu_words_6.12.jsonl": (300, 15368, V6_12), "smmu_words_7.3.jsonl": (300, 15488, V7_3)}
OLD, NEW = FILES


@cache
def _text(name: str) -> str:
    return (DATA / name).read_text()


def records(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in _text(name).splitlines()]


def record(name: str = OLD, **wanted: Any) -> dict[str, Any]:
    """The first record of a file with these values, a `type` being that of the new entry."""
    kind = wanted.pop("type", None)
    return next(
        found
        for found in records(name)
        if (kind is None or found["to_params"]["type"] == kind)
        and all(found.get(key) == value for key, value in wanted.items())
    )


def write(path: Path, *written: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in written))
    return path


def test_every_file_of_entries_that_ships_is_listed_here() -> None:
    assert {path.name for path in DATA.glob("smmu_words*.jsonl")} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_the_model_builds_and_writes_as_the_driver_did(name: str) -> None:
    summary = conform_words_file(DATA / name)
    entries, words, kernel = FILES[name]
    assert not summary.differences, summary.differences[0]
    assert (summary.entries, summary.words, summary.kernel) == (entries, words, kernel.name)


# What differs is found


@pytest.mark.parametrize("key", ["from", "to", "to_used", "sync0", "sync1", "sync2", "final"])
@pytest.mark.parametrize("word", range(8))
def test_a_changed_word_is_found_under_its_key(tmp_path: Path, key: str, word: int) -> None:
    changed = record(type="cdtable", syncs=3)
    changed[key][word] = f"{int(changed[key][word], 16) ^ 1 << 10:x}"
    found = conform_words_file(write(tmp_path / "6.12.jsonl", changed)).differences
    assert key in {difference.what for difference in found}
    (difference,) = [one for one in found if one.what == key]
    assert difference.recorded == changed[key]
    assert difference.fields


@pytest.mark.parametrize("syncs", [0, 2, 4])
def test_another_number_of_syncs_is_found(tmp_path: Path, syncs: int) -> None:
    changed = record(type="cdtable", syncs=3) | {"syncs": syncs}
    (difference,) = conform_words_file(write(tmp_path / "6.12.jsonl", changed)).differences
    assert (difference.what, difference.recorded, difference.model) == ("syncs", syncs, 3)


def test_a_sync_that_only_the_model_issued_is_found(tmp_path: Path) -> None:
    changed = record(type="cdtable", syncs=3)
    del changed["sync2"]
    (difference,) = conform_words_file(write(tmp_path / "6.12.jsonl", changed)).differences
    assert (difference.what, difference.recorded, difference.model) == ("sync2", None, changed["final"])


def test_a_sync_that_only_the_driver_issued_is_found(tmp_path: Path) -> None:
    changed = record(type="abort", syncs=0)
    changed["sync0"] = changed["final"]
    (difference,) = conform_words_file(write(tmp_path / "6.12.jsonl", changed)).differences
    assert (difference.what, difference.recorded, difference.model) == ("sync0", changed["final"], None)


# Each parameter decides about something, or is known not to

EVERY_STE = {"feat_stalls", "feat_attr_types_ovr", "feat_e2h", "stall_enabled", "ats"}
EVERY_CD = {"feat_stall_force", "stall_enabled", "asid", "feat_ha", "feat_hd", "feat_haft"}
WITHOUT_EFFECT = {
    "abort": EVERY_STE,
    "bypass": EVERY_STE - {"feat_attr_types_ovr"},
    "cdtable": set(),
    "s2": {"feat_stalls", "feat_e2h"},
    "zero": EVERY_CD,
    "s1": {"feat_stall_force", "feat_ha", "feat_hd", "feat_haft"},
    "sva": {"feat_stall_force", "feat_haft"},
    "sva_release": {"feat_haft"},
}


def mutants(name: str, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Records with one parameter of the new entry changed by its lowest bit that counts, addresses in bit 12."""
    for found in records(name):
        params = found["to_params"]
        for key, value in params.items():
            if params["type"] == kind and key != "type":
                changed = f"{int(value, 16) ^ 1 << 12:x}" if isinstance(value, str) else value ^ 1
                yield key, found | {"to_params": params | {key: changed}}


@pytest.mark.parametrize("kind", WITHOUT_EFFECT)
def test_one_wrong_parameter_is_found_as_a_difference_of_the_new_entry(tmp_path: Path, kind: str) -> None:
    changed = list(mutants(NEW, kind))
    summary = conform_words_file(write(tmp_path / "words_7.3.jsonl", *(one for _, one in changed)))
    assert {difference.what for difference in summary.differences} <= {"to"}
    noticed = {changed[difference.line - 1][0] for difference in summary.differences}
    assert noticed == {key for key, _ in changed} - WITHOUT_EFFECT[kind]


# Which kernel


def differences(path: Path, kernel: Profile | None = None) -> tuple[str, int]:
    summary = conform_words_file(path, kernel)
    return summary.kernel, len(summary.differences)


def test_the_kernel_can_be_given() -> None:
    assert differences(DATA / OLD, V7_3) == ("v7.3", 94)


@pytest.mark.parametrize("name", ["other_7.3.jsonl", "v7.3.4-more.jsonl", "7.3_against_6.12.jsonl"])
def test_a_version_in_the_name_counts_before_the_content(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(_text(OLD))
    assert differences(path) == ("v7.3", 94)


@pytest.mark.parametrize("name", ["words.jsonl", "words_1.5.jsonl", "26.12.jsonl", "10.6.12.jsonl"])
@pytest.mark.parametrize(("content", "kernel"), [(OLD, "v6.12"), (NEW, "v7.3")])
def test_without_a_version_the_kernel_that_fits_better_is_reported(
    tmp_path: Path, name: str, content: str, kernel: str
) -> None:
    path = tmp_path / name
    path.write_text(_text(content))
    assert differences(path) == (kernel, 0)


def test_all_lines_of_a_file_are_held_against_one_kernel(tmp_path: Path) -> None:
    path = tmp_path / "both.jsonl"
    path.write_text(_text(OLD) + _text(NEW))
    kernel, differ = differences(path)
    assert kernel == "v7.3"
    assert differ == 94


# Reading


def test_gzipped_entries_are_read_and_progress_is_told(tmp_path: Path) -> None:
    path = tmp_path / "words_6.12.jsonl.gz"
    path.write_bytes(gzip.compress(_text(OLD).encode()))
    seen: list[int] = []
    assert conform_words_file(path, progress=seen.append).entries == 300
    assert seen == list(range(1, 301))


def garbled(**changes: Any) -> dict[str, Any]:
    return {key: value for key, value in (record(type="cdtable", syncs=3) | changes).items() if value is not None}


def params(**changes: Any) -> dict[str, Any]:
    changed = record(type="cdtable", syncs=3)["to_params"] | changes
    return garbled(to_params={key: value for key, value in changed.items() if value is not None})


MALFORMED = {
    "kind": (garbled(entry="pte"), "entry = 'pte': invalid value 'pte'; allowed: ste, cd"),
    "no kind": (garbled(entry=None), "entry: missing"),
    "no used bits": (garbled(to_used=None), "to_used: missing"),
    "no parameters": (garbled(from_params=None), "from_params: missing"),
    "type": (params(type="zero"), "to_params.type = 'zero': invalid value 'zero'; allowed: abort, bypass, cdtable, s2"),
    "missing parameter": (params(cdtab=None), "to_params.cdtab: missing"),
    "wrong type": (params(s1cdmax="x"), "to_params.s1cdmax = 'x': expected `int`, got `str`"),
    "too large": (params(s1cdmax=32), "to_params.s1cdmax = 32: expected `int` <= 31"),
    "no encoding": (params(s1fmt=4), "to_params.s1fmt = 4: invalid enum value 4; allowed: 0, 1, 2, 3"),
    "no flag": (params(ats=2), "to_params.ats = 2: invalid enum value 2; allowed: 0, 1"),
    "no digits": (params(cdtab="0x1000"), "to_params.cdtab = '0x1000': expected text matching regex"),
    "no hexadecimal word": (garbled(to=["0"] * 7 + ["g"]), "to[7] = 'g': expected text matching regex"),
    "word too long": (garbled(sync1=["1" * 17] + ["0"] * 7), f"sync1[0] = '{'1' * 17}': expected text matching"),
    "short entry": (
        garbled(final=["0"] * 7),
        "final = ['0', '0', '0', '0', '0', '0', '0']: expected `array` of length",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_line_says_file_line_key_and_what_is_allowed(tmp_path: Path, name: str) -> None:
    content, message = MALFORMED[name]
    path = write(tmp_path / "bad.jsonl", record(), content)
    with pytest.raises(InputError) as raised:
        conform_words_file(path)
    assert str(raised.value).startswith(f"{path}:2: not a recorded entry: {message}")


@pytest.mark.parametrize("line", [b"garbage", b"[]", b"5", b'{"n": "\xff"}', b'{"n": 1', b'{"x": ' + b"[" * 100_000])
def test_a_line_that_is_no_object_says_file_and_line(tmp_path: Path, line: bytes) -> None:
    path = write(tmp_path / "bad.jsonl", record())
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(InputError) as raised:
        conform_words_file(path)
    assert str(raised.value).startswith(f"{path}:2: not a recorded entry: ")


def test_an_empty_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no entry in it; a record is one JSON object a line"):
        conform_words_file(write(tmp_path / "empty.jsonl"))


# The command


def test_files_of_both_kinds_are_told_apart_by_their_content(pasidlab: Command) -> None:
    files = [f"tests/data/{name}" for name in (OLD, "replace_7.3.jsonl", NEW)]
    done = pasidlab("conform", *files)
    assert done.status == 0
    assert done.out.splitlines() == [
        f"{files[0]}: 300 entries, 15368 words, 0 differ (v6.12)",
        f"{files[1]}: 80 sequences, 4800 steps, 0 differ",
        f"{files[2]}: 300 entries, 15488 words, 0 differ (v7.3)",
    ]


def test_a_difference_names_line_entry_key_words_and_fields(pasidlab: Command, tmp_path: Path) -> None:
    changed = record(type="cdtable", syncs=3)
    changed["to_params"]["s1cdmax"] ^= 1
    path = write(tmp_path / "words_6.12.jsonl", record(n=0), changed)
    done = pasidlab("conform", path)
    assert done.status == 1
    assert done.out.splitlines() == [
        f"line 2 (entry {changed['n']}, ste cdtable to cdtable), to",
        f"  recorded {' '.join(changed['to'])}",
        f"  model    100b14bc79e21fab {' '.join(changed['to'][1:])}",
        "  s1cdmax  0x3, in the model 0x2",
        f"{path}: 2 entries, 88 words, 1 differ (v6.12)",
    ]


def test_a_bit_that_no_field_covers_is_told_as_reserved(pasidlab: Command, tmp_path: Path) -> None:
    changed = record(type="abort", syncs=0)
    changed["final"][7] = "8000000000000000"
    done = pasidlab("conform", write(tmp_path / "words_6.12.jsonl", changed))
    assert f"  reserved {1 << 511:#x}, in the model 0x0" in done.out


def test_json_gives_one_object_a_difference_and_a_summary(pasidlab: Command, tmp_path: Path) -> None:
    changed = record(type="cdtable", syncs=3) | {"syncs": 2}
    path = write(tmp_path / "words_6.12.jsonl", changed)
    done = pasidlab("conform", path, "--json")
    assert done.status == 1
    difference, summary = [json.loads(line) for line in done.out.splitlines()]
    assert difference == {
        "path": str(path),
        "line": 1,
        "update": f"entry {changed['n']}, ste cdtable to cdtable",
        "what": "syncs",
        "recorded": 2,
        "model": 3,
        "fields": {},
    }
    assert summary == {
        "path": str(path),
        "summary": True,
        "kernel": "v6.12",
        "entries": 1,
        "words": 56,
        "differ": 1,
    }


def test_the_kernel_option_overrides_the_name(pasidlab: Command) -> None:
    done = pasidlab("conform", f"tests/data/{OLD}", "--kernel", "v7.3", "--json")
    assert done.status == 1
    found = [json.loads(line) for line in done.out.splitlines()]
    assert found[-1]["differ"] == len(found) - 1 == 94
    assert {key for difference in found[:-1] for key in difference["fields"]} == {"mev", "s2fwb"}


def test_an_unknown_kernel_gives_status_2(pasidlab: Command) -> None:
    done = pasidlab("conform", f"tests/data/{OLD}", "--kernel", "v9")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("pasidlab: kernel 'v9': no such profile; known: v6.12.0")


def test_a_malformed_first_line_is_reported_as_an_entry(pasidlab: Command, tmp_path: Path) -> None:
    path = write(tmp_path / "bad.jsonl", garbled(entry=None))
    done = pasidlab("conform", path)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"pasidlab: {path}:1: not a recorded entry: entry: missing")
