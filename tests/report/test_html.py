"""The page."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

from aiida_alpot.report.html import write_report
from aiida_alpot.report.record import CampaignRecord, Labelling

VOID = {'meta', 'img', 'br', 'link'}

EXPECTED = [
    'Active learning of Si',
    'as many as it was allowed',
    '51.8 meV/Å',
    '30/10/12',
    '10 min 00 s',
    '1300 nodes',
    '25.0 nodes for each of 52 labels',
    'target RMSE of forces',
    'pw@localhost',
    'max_select',
    'doi:10.1038/',
]


class Balance(HTMLParser):
    """Checks that every tag is closed, and keeps what the page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.sources += [value or '' for name, value in attrs if name == 'src' or (tag == 'link' and name == 'href')]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check(page: Path) -> str:
    """The text of a page that is well formed and loads nothing."""
    text = page.read_text(encoding='utf-8')
    parser = Balance()
    parser.feed(text)
    assert parser.open == []
    assert all(source.startswith('data:image/png;base64,') for source in parser.sources)
    assert 'url(' not in text and '@import' not in text and '<script' not in text
    return text


def test_page_is_complete(make_record: Callable[..., CampaignRecord], tmp_path: Path) -> None:
    """Outcome, numbers, figures, failures, provenance, settings and citations, in one file."""
    page = write_report(make_record(), tmp_path / 'made' / 'here')
    text = check(page)
    assert page.name == 'report.html'
    assert text.count('<img ') == 6 == len(list((page.parent / 'figures').glob('*.png')))
    assert [words for words in EXPECTED if words not in text] == []
    assert 'The electronic minimization &lt;cycle&gt; failed' in text
    assert re.search(r'fell from 144 to 51\.8 meV/Å', text)


def test_reused_labels(make_record: Callable[..., CampaignRecord], tmp_path: Path) -> None:
    """A campaign that bought none has no cost a label, and says so."""
    labellings = (Labelling('labelling_initial', 41, 40, 1, n_reused=40),)
    text = check(write_report(make_record(labellings=labellings), tmp_path))
    assert 'all labels are reused' in text and 'labels computed, 40 reused, 1 failed' in text
    assert '<td>labelling_initial</td><td>41</td><td>0</td><td>40</td><td>1</td>' in text


def test_campaign_without_anything(make_record: Callable[..., CampaignRecord], tmp_path: Path) -> None:
    """A campaign that has just begun has a page too."""
    nothing = {
        'rounds': (),
        'stages': (),
        'labellings': (),
        'failures': (),
        'outputs': {},
        'targets': {},
        'tolerance': {},
    }
    text = check(write_report(make_record(state='created', ended_by=None, exit_status=None, **nothing), tmp_path))
    assert 'No round has been trained yet.' in text
    assert 'no label yet' in text
    assert text.count('<img ') == 1
