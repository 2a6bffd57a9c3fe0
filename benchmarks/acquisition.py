"""Acquisition on one core: ``python benchmarks/acquisition.py [--quick] [--check] [--case NAME] [--scratch DIR]``.

Batch selection, MaxVol and extrapolation grades, and the evaluation of committees, each beside what users would take
otherwise, in the same run and on the same input. Times are CPU seconds of a process on one thread, memory is what it
takes beyond its input. The last line is one JSON object; the exit code is 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CASES = ('selection', 'maxvol', 'evaluation')


def line(case: dict[str, Any]) -> str:
    """One case as text."""
    beside = f', {case["peer"]} {case["peer_s"]:.3g} s: {case["ratio"]:.1f}x' if case.get('peer_s') else ''
    met = 'met' if case['bar_met'] else 'MISSED'
    memory = f', {case["ours_mb"]:.0f} MB' if case.get('ours_mb') is not None else ''
    measured = f'{case["case"]}: {case["ours_s"]:.3g} s{memory}{beside}'
    return f'{measured}\n    bar {case["bar"]}: {met}; {case["bound"]}; {case["note"]}'


def table(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """All cases as a table in Markdown."""
    lines = [
        '| case | ours | peer | ratio | bar | met | physical bound and notes |',
        '|---|---|---|---|---|---|---|',
    ]
    for case in (case for cases in found.values() for case in cases):
        notes = '; '.join(case[key] for key in ('bound', 'distance', 'note') if case.get(key))
        ratio = f'{case["ratio"]:.3g}' if case.get('ratio') else ''
        met = 'yes' if case['bar_met'] else '**no**'
        peer = f'{case["peer"]}: {_cost(case, "peer")}' if case.get('peer_s') else ''
        cells = (case['case'], _cost(case, 'ours'), peer, ratio, case['bar'], met, notes)
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


def _cost(case: Mapping[str, Any], who: str) -> str:
    """Time and memory of one side."""
    memory = case.get(f'{who}_mb')
    return f'{case[f"{who}_s"]:.3g} s' + (f', {memory:.0f} MB' if memory is not None else '')


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description='Acquisition on one core, beside its peers.')
    parser.add_argument('--quick', action='store_true', help='small sizes: whether it runs, not how fast it is')
    parser.add_argument('--case', action='append', choices=CASES, help='only this; may be repeated')
    parser.add_argument('--check', action='store_true', help='hold all picks against their definition in float64')
    parser.add_argument('--markdown', type=Path, help='write the table into this file, too')
    parser.add_argument('--scratch', type=Path, help='folder for files of up to 8 GB')
    arguments = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(dir=arguments.scratch, prefix='alpot-bench-') as directory:
        for name in arguments.case or CASES:
            module = importlib.import_module(f'acquisition_cases.{name}')
            options = {'check': arguments.check} if name == 'selection' else {}
            found[name] = module.cases(arguments.quick, Path(directory), **options)
            for case in found[name]:
                print(line(case), flush=True)
    if arguments.markdown:
        arguments.markdown.write_text(table(found), encoding='utf-8')
    print(json.dumps({'quick': arguments.quick, **found}))
    return 0 if all(case['bar_met'] for cases in found.values() for case in cases) else 1


if __name__ == '__main__':
    sys.exit(main())
