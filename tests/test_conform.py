"""The first witness: records of real kernels, replayed step by step."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from pasidlab.conform import conform_file
from pasidlab.errors import InputError
from pasidlab.records import MAX_LINE

DATA = Path(__file__).parent / "data"
RECORDS = {
    "binds_6.12.jsonl": (120, 7200),
    "binds_7.3.jsonl": (120, 7200),
    "binds_v2.jsonl": (120, 7200),
    "fixup_v2.jsonl": (11, 81),
    "replace_7.3.jsonl": (80, 4800),
    "reset_7.3.jsonl": (40, 2400),
    "scenarios_6.12.jsonl": (42, 496),
    "scenarios_7.3.jsonl": (42, 496),
    "scenarios_7.3_extra.jsonl": (15, 109),
    "scenarios_7.3_reset.jsonl": (9, 85),
    "scenarios_v2.jsonl": (57, 658),
}


def test_every_record_that_ships_is_listed_here() -> None:
    shipped = {path.name for path in DATA.glob("*.jsonl")}
    # The others are listed in test_conform_words.py.
    assert {name for name in shipped if not name.startswith("smmu_words")} == set(RECORDS)


@pytest.mark.parametrize("name", RECORDS)
def test_the_model_answers_as_the_kernel_did(name: str) -> None:
    summary = conform_file(DATA / name)
    assert not summary.differences, summary.differences[0]
    assert (summary.sequences, summary.steps) == RECORDS[name]


def first_record(name: str = "scenarios_7.3.jsonl") -> dict:
    with (DATA / name).open() as lines:
        return json.loads(next(lines))


def write(tmp_path: Path, *records: dict) -> Path:
    path = tmp_path / "records.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n")
    return path


@pytest.mark.parametrize(
    ("change", "step"),
    [({"pasid": 2}, 1), ({"same": 5}, 1), ({"cb": []}, 1), ({"st": "err"}, 0)],
    ids=["number", "handle", "callbacks", "state"],
)
def test_a_record_that_differs_in_one_field_is_found(tmp_path: Path, change: dict, step: int) -> None:
    record = first_record()
    record["steps"][step][1].update(change)
    (difference,) = conform_file(write(tmp_path, record)).differences
    assert difference.step == step
    assert difference.recorded != difference.model


def test_a_difference_names_line_command_both_answers_and_the_rule(tmp_path: Path) -> None:
    record = first_record()
    record["steps"][2][1]["pasid"] = 7
    (difference,) = conform_file(write(tmp_path, first_record(), record)).differences
    text = str(difference)
    assert text.startswith('line 2 (sequence 0, double_bind), step 2 ["bind", 0, 0, 1]')
    assert '"pasid": 7' in text
    assert "rule     bind.same-mm" in text


def test_a_refusal_that_differs_shows_the_rule_and_its_sentence(tmp_path: Path) -> None:
    record = next(
        json.loads(line)
        for line in (DATA / "scenarios_7.3.jsonl").read_text().splitlines()
        if '"narrow_device_starved"' in line
    )
    step = next(s for s in record["steps"] if s[1].get("ret") == -28)
    step[1]["ret"] = -12
    (difference,) = conform_file(write(tmp_path, record)).differences
    assert difference.rule.startswith("bind.no-number-free: dev0 carries 1..3")


def test_a_bound_that_the_kernel_computed_otherwise_is_a_difference(tmp_path: Path) -> None:
    record = first_record()
    record["devs"][0]["max_pasids"] = 17
    (difference,) = conform_file(write(tmp_path, record)).differences
    assert difference.command == ["probe", 0]
    assert difference.model == {"max_pasids": 16}


def test_gzipped_records_are_read(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl.gz"
    path.write_bytes(gzip.compress((DATA / "fixup_v2.jsonl").read_bytes()))
    assert conform_file(path).sequences == 11


def test_progress_is_reported_after_each_sequence() -> None:
    seen: list[int] = []
    conform_file(DATA / "fixup_v2.jsonl", seen.append)
    assert seen == list(range(1, 12))


def garbled(**changes: object) -> bytes:
    return json.dumps(first_record() | changes).encode()


BAD_FILES = {
    "empty": (b"", r"no record in it; a record is one JSON object a line"),
    "not JSON": (b"garbage\n", r":1: not a recorded sequence: JSON is malformed"),
    "no UTF-8": (b'{"seq": "\xff"}\n', r":1: not a recorded sequence"),
    "truncated": (garbled()[:200], r":1: not a recorded sequence: Input data was truncated"),
    "missing field": (b'{"seq": 1}\n', r"missing required field `kind`"),
    "wrong type": (garbled(seq="x"), r"Expected `int`, got `str`"),
    "other kernel": (garbled(kernel="5.4.1"), r"kernel '5.4.1' is not modelled; known series: 6.12, 7.3, 6.12\+v2"),
    "unknown command": (garbled(steps=[[["frob", 1], {}]]), r"step 0: no such command \['frob', 1\]; known: newmm"),
    "empty command": (garbled(steps=[[[], {}]]), r"step 0: no such command"),
    "short command": (garbled(steps=[[["bind", 0], {}]]), r"does not fit its command: it takes dev, mm, handle"),
    "wrong argument": (
        garbled(steps=[[["newmm", 0], {}], [["bind", "x", 0, 0], {}]]),
        r"step 1: .* dev = 'x' is no int",
    ),
    "unhashable argument": (
        garbled(steps=[[["unbind", [1]], {}]]),
        r"does not fit its command: number = \[1\] is no int",
    ),
    "no such device": (garbled(steps=[[["newmm", 0], {}], [["bind", 9, 0, 0], {}]]), r"device 9 is not in devs"),
    "no such mode": (garbled(steps=[[["attach", 0, 3, "q"], {}]]), r"mode = 'q' is none of h, n, s, r"),
    "number out of range": (garbled(steps=[[["attach", 0, -5, "h"], {}]]), r"pasid = -5 is out of range"),
    "unknown errno": (garbled(steps=[[["failset", 0, -9999], {}]]), r"errno -9999 has no name here; known: -1, -2"),
    "device twice": (garbled(devs=first_record()["devs"] * 2), r"devs\[\]\.id = 0 is there twice"),
    "nested too deeply": (b'{"x": ' + b"[" * 100_000, r"not a recorded sequence"),
    "corrupt gzip": (gzip.compress(garbled())[:30] + b"\x00" * 40 + gzip.compress(garbled())[60:], r"cannot be read"),
    "no such instance": (garbled(insts=[]), r"devs\[\]\.inst = 0 names no instance"),
    "unknown ops": (
        garbled(insts=[{"id": 0, "max_pasids": 4, "ops": "magic"}]),
        r"insts\[\]\.ops = 'magic'; allowed: usual, no_domain_alloc_sva",
    ),
    "broken gzip": (gzip.compress(garbled())[:60], r"cannot be read"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_record_says_where_and_what(tmp_path: Path, name: str) -> None:
    content, message = BAD_FILES[name]
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        conform_file(path)
    assert str(raised.value).startswith(str(path))


def test_a_line_without_end_is_not_read_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    path.write_bytes(b" " * (MAX_LINE + 10))
    with pytest.raises(InputError, match=f":1: the line is longer than {MAX_LINE} bytes"):
        conform_file(path)


@pytest.mark.parametrize("make", [lambda p: p.mkdir(), lambda p: p.symlink_to(p), lambda p: None])
def test_a_path_that_is_no_file_says_so(tmp_path: Path, make) -> None:
    path = tmp_path / "no-file"
    make(path)
    with pytest.raises(InputError, match=r"no-file: cannot be read: "):
        conform_file(path)
