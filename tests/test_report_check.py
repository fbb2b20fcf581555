"""Reports of a search: lines for people, a page, JUnit XML and JSON lines all say the same."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from rich.console import Console

from pasidlab.explore.action import Result, Verb
from pasidlab.explore.check import Claim, Verdict
from pasidlab.explore.trace import Trace, TraceStep
from pasidlab.explore.verdict import Engine, Found, Status
from pasidlab.report.check_html import html_text
from pasidlab.report.check_json import verdict_dict
from pasidlab.report.check_junit import junit_text
from pasidlab.report.check_text import print_verdict
from pasidlab.report.check_words import last_sentences, memory_text, outcome_text, step_text, verdict_text

STEP = TraceStep(1, "p0 opens <dsa0>", "", "ok", 1, "", "", "bind.domain-new", "it got a domain", ())
WORK = TraceStep(2, "dsa0 does the work of p0", "table", "ok", 1, "p1", "p0", "portal.believed", "it believed 1", ())
TRACE = Trace("isolation", "work stays & at home", "R11", 3, 2, "", (STEP, WORK), 'title = "a <b> & c"\n')
FOUND = Found(
    states=1234,
    transitions=5678,
    depth=9,
    complete=True,
    stopped_by="",
    reached={(Verb.BIND, Result.OK): 7, (Verb.BIND, Result.ENOSPC): 2, (Verb.SUBMIT, Result.OK): 0},
    counterexamples=(),
    seconds=1.25,
    memory=3 * 1024 * 1024,
)
HOLDS = Verdict(
    world="A <world>",
    shape="1 process (p0), 1 device (dsa0), 1 number",
    scheme="hybrid",
    kernel="v7.3",
    settings={"guard": "none"},
    engine=Engine.COMPILED,
    note="",
    status=Status.HOLDS,
    found=FOUND,
    claims=(Claim("isolation", "work stays & at home", "R11"), Claim("no-leak", "nothing is left", "R22")),
    goals=("bind=ok", "bind=EBUSY"),
    unreached=(),
    traces=(),
)
STOPPED_AT_ONE = replace(FOUND, complete=False, stopped_by="violation")
VIOLATED = replace(HOLDS, status=Status.VIOLATED, traces=(TRACE,), found=STOPPED_AT_ONE)
BOUNDED = replace(HOLDS, status=Status.STOPPED, found=replace(FOUND, complete=False, stopped_by="states"))
INTERRUPTED = replace(HOLDS, status=Status.INTERRUPTED, found=replace(FOUND, complete=False, stopped_by="interrupted"))
UNREACHED = replace(HOLDS, status=Status.VIOLATED, unreached=("bind=EBUSY",))


def text_of(verdict: Verdict) -> str:
    written = io.StringIO()
    print_verdict(verdict, Console(file=written, width=160))
    return written.getvalue()


class TestText:
    def test_a_verdict_is_one_line(self) -> None:
        how_much = "1,234 states, 5,678 transitions, depth 9, 1.2 s, 3.0 MiB"
        assert verdict_text(HOLDS) == f"holds: 2 properties in {how_much}"
        assert verdict_text(VIOLATED) == f"violated: isolation; in {how_much}"
        assert verdict_text(BOUNDED) == f"stopped by the bound on states: nothing broken in {how_much}"
        assert verdict_text(INTERRUPTED) == f"interrupted: nothing broken in {how_much}"
        assert verdict_text(UNREACHED) == f"holds, but not everything was reached: 2 properties in {how_much}"

    def test_a_search_that_was_stopped_after_it_found_something_says_both(self) -> None:
        both = replace(VIOLATED, found=replace(FOUND, complete=False, stopped_by="seconds"))
        assert verdict_text(both).startswith("violated: isolation; in ")
        assert verdict_text(both).endswith(", stopped by the bound on seconds")

    def test_steps_tell_the_number_whose_memory_and_within_what(self) -> None:
        assert outcome_text(STEP) == "ok 1"
        assert outcome_text(WORK) == "ok 1 in p1, not p0"
        assert outcome_text(replace(STEP, result="ENOSPC")) == "ENOSPC"
        assert step_text(WORK) == "within that call, after its step table: dsa0 does the work of p0"

    def test_the_last_step_is_explained_with_its_rule_and_its_reason(self) -> None:
        assert last_sentences(TRACE) == [(2, "it believed 1 [portal.believed]")]
        because = replace(TRACE, because="number 1 is named by work of p0")
        assert last_sentences(because)[0] == (2, "number 1 is named by work of p0")
        ran = replace(TRACE, last=1)
        assert last_sentences(ran)[0] == (1, "it got a domain [bind.domain-new; Linux 6.12.117 and 7.3.4 (run)]")

    def test_the_output_has_the_trace_what_was_reached_and_what_was_not(self) -> None:
        text = text_of(VIOLATED)
        assert "isolation: work stays & at home (R11)" in text
        assert "p0 opens <dsa0>" in text
        assert "reached: bind ok 7, ENOSPC 2\n" in text
        assert "submit" not in text
        assert "never reached: bind=EBUSY" in text_of(UNREACHED)
        assert "never reached" not in text

    def test_the_readable_engine_says_why(self) -> None:
        readable = replace(HOLDS, engine=Engine.READABLE, note="searched by the readable engine: scheme mine")
        assert "note: searched by the readable engine: scheme mine" in text_of(readable)
        assert "note:" not in text_of(HOLDS)

    def test_nothing_reached_is_said(self) -> None:
        assert "reached: nothing" in text_of(replace(HOLDS, found=replace(FOUND, reached={})))

    @pytest.mark.parametrize(("size", "text"), [(0, "0.0 MiB"), (1 << 31, "2,048.0 MiB")])
    def test_memory_is_in_mebibytes(self, size: int, text: str) -> None:
        assert memory_text(size) == text


class TestJson:
    def test_a_record_has_everything_and_is_json(self) -> None:
        record = json.loads(json.dumps(verdict_dict(VIOLATED)))
        assert record["status"] == "violated"
        assert (record["states"], record["stopped_by"], record["complete"]) == (1234, "violation", False)
        assert [(one["name"], one["status"]) for one in record["properties"]] == [
            ("isolation", "violated"),
            ("no-leak", "undecided"),
        ]
        assert record["reached"] == {"bind": {"ok": 7, "ENOSPC": 2}}
        assert record["traces"][0]["steps"][1]["owner"] == "p1"
        assert record["traces"][0]["scenario"] == TRACE.scenario

    def test_goals_are_reached_missed_or_open(self) -> None:
        assert [one["reached"] for one in verdict_dict(UNREACHED)["sometimes"]] == [True, False]
        assert [one["reached"] for one in verdict_dict(BOUNDED)["sometimes"]] == [True, None]


class TestJunit:
    def suite(self, *verdicts: Verdict) -> Any:
        return ElementTree.fromstring(junit_text(verdicts).encode())

    def test_every_property_and_goal_is_a_case(self) -> None:
        root = self.suite(HOLDS)
        (suite,) = root
        names = [case.get("name") for case in suite]
        assert names == ["isolation", "no-leak", "sometimes bind=ok", "sometimes bind=EBUSY"]
        assert {case.get("classname") for case in suite} == {"A <world>.hybrid"}
        assert [case.get("time") for case in suite] == ["1.250", "0.000", "0.000", "0.000"]
        assert (suite.get("tests"), suite.get("failures"), suite.get("time")) == ("4", "0", "1.250")

    def test_a_violation_is_a_failure_with_its_trace_and_leaves_the_others_open(self) -> None:
        (suite,) = self.suite(VIOLATED)
        failure = suite[0].find("failure")
        assert failure is not None
        assert failure.get("message") == "work stays & at home"
        assert (
            "  2  within that call, after its step table: dsa0 does the work of p0: ok 1 in p1, not p0" in failure.text
        )
        assert failure.text.endswith(TRACE.scenario)
        assert [case.find("skipped") is not None for case in suite] == [False, True, False, True]
        assert (suite.get("failures"), suite.get("errors"), suite.get("skipped")) == ("1", "0", "2")

    @pytest.mark.parametrize("verdict", [BOUNDED, INTERRUPTED])
    def test_what_a_bound_or_ctrl_c_left_open_does_not_pass(self, verdict: Verdict) -> None:
        (suite,) = self.suite(verdict)
        assert [case.find("error") is not None for case in suite] == [True, True, False, True]
        assert suite.get("errors") == "3"

    def test_a_goal_that_was_never_reached_is_a_failure(self) -> None:
        (suite,) = self.suite(UNREACHED)
        failure = suite[3].find("failure")
        assert failure is not None
        assert failure.get("message") == "bind=EBUSY was never reached"

    def test_worlds_are_suites(self) -> None:
        root = self.suite(HOLDS, replace(HOLDS, scheme="v2"), replace(HOLDS, world="Other"))
        assert [(suite.get("name"), suite.get("tests")) for suite in root] == [("A <world>", "8"), ("Other", "4")]

    def test_characters_that_xml_cannot_carry_are_replaced(self) -> None:
        (suite,) = self.suite(replace(HOLDS, world="bell \x07"))
        assert suite.get("name") == "bell ?"


class Page(HTMLParser):
    """Holds a page to be well-formed, and collects its text, tags and links."""

    VOID = ("meta", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


class TestHtml:
    def page(self, *verdicts: Verdict) -> Page:
        return Page(html_text(verdicts))

    def test_the_page_is_well_formed_and_stands_alone(self) -> None:
        page = self.page(HOLDS, VIOLATED, BOUNDED, UNREACHED)
        names = [tag for tag, _ in page.tags]
        assert not {"script", "link", "img", "iframe"} & set(names)
        assert ("html", {"lang": "en"}) in page.tags
        assert ("meta", {"name": "color-scheme", "content": "light dark"}) in page.tags

    def test_every_link_leads_to_a_trace_and_no_id_is_given_twice(self) -> None:
        page = self.page(VIOLATED, replace(VIOLATED, scheme="mine/own"), replace(VIOLATED, world="Other"))
        ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
        links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
        assert len(ids) == len(set(ids))
        assert len(links) == 3
        assert {f"#{one}" for one in ids} >= set(links)

    def test_what_users_wrote_is_text(self) -> None:
        page = self.page(VIOLATED)
        assert "A <world>" in page.text
        assert "p0 opens <dsa0>" in page.text
        assert TRACE.scenario in page.text
        assert not any(tag in ("world", "dsa0", "b") for tag, _ in page.tags)

    def test_tables_have_captions_and_headers_with_their_scope(self) -> None:
        page = self.page(VIOLATED, UNREACHED)
        names = [tag for tag, _ in page.tags]
        assert names.count("table") == names.count("caption")
        assert all(attributes.get("scope") in ("row", "col") for tag, attributes in page.tags if tag == "th")

    def test_verdicts_are_told_in_words_too(self) -> None:
        text = self.page(VIOLATED, BOUNDED, UNREACHED).text
        for word in ("violated", "stopped", "undecided", "bind=EBUSY", "ok 1 in p1, not p0", "1,234", "guard = none"):
            assert word in text

    def test_the_step_that_breaks_it_says_so(self) -> None:
        assert "Breaks isolation." in self.page(VIOLATED).text
        because = replace(TRACE, because="number 1 is named by work")
        assert "Breaks isolation: number 1 is named by work" in self.page(replace(VIOLATED, traces=(because,))).text

    def test_no_verdict_at_all_is_an_empty_page(self) -> None:
        assert "pasidlab check" in self.page().text
