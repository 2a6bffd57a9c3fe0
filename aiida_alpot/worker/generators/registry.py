"""The generators by name, and how a plan of them makes frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiida_alpot.worker.acquisition.gate import too_close, too_large
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.generators import isolated_atom, rattle, strain, supercell, vacancy
from aiida_alpot.worker.generators.derivation import Generator
from aiida_alpot.worker.options import build, integer, lookup, number, unknown_name
from aiida_alpot.worker.seeds import derive_seed

INPUT = 'input'
"""What a step acts on that makes frames of those given to :func:`generate`."""

GENERATORS: dict[str, Generator] = {
    generator.name: generator
    for generator in (
        Generator(
            'supercell', supercell.SupercellParameters, supercell.supercell, supercell.unsuitable, 'source', (INPUT,)
        ),
        Generator('strain', strain.StrainParameters, strain.strain, strain.unsuitable, 'frame', (INPUT,)),
        Generator('rattle', rattle.RattleParameters, rattle.rattle, rattle.unsuitable, 'frame', ('supercell', INPUT)),
        Generator(
            'vacancy',
            vacancy.VacancyParameters,
            vacancy.vacancy,
            vacancy.unsuitable,
            'step',
            ('rattle', 'supercell', INPUT),
        ),
        Generator(
            'isolated_atom',
            isolated_atom.IsolatedAtomParameters,
            isolated_atom.isolated_atom,
            isolated_atom.unsuitable,
            'own',
            (INPUT,),
        ),
    )
}

STEP_OPTIONS = ('generator', 'on', 'keep', 'n_sources')


@dataclass(frozen=True)
class RejectedFrame:
    """A frame that was made and refused.

    :param step: the step of the plan that made it.
    """

    frame: Frame
    step: str
    reason: str


@dataclass(frozen=True)
class Generation:
    """What a plan has made.

    :param frames: the frames, unlabelled, not two with the same ``frame_id``.
    :param rejected: frames that are too large or whose atoms are too close.
    :param notes: sentences about what was left out on purpose: source frames that do not suit a step, duplicates.
    """

    frames: list[Frame]
    rejected: list[RejectedFrame]
    notes: list[str]


@dataclass(frozen=True)
class Step:
    """One step of a plan.

    :param on: names of the steps, or ``input``, whose frames it acts on.
    :param keep: whether its frames are part of the result, or only material for other steps.
    :param n_sources: act on at most so many frames, drawn at random among those that suit; ``None``: on all.
    """

    name: str
    generator: Generator
    parameters: Any
    on: tuple[str, ...]
    keep: bool
    n_sources: int | None


@dataclass(frozen=True)
class _Product:
    """A frame on its way: the short identifier of the input frame it comes from, and whether it has been distorted."""

    frame: Frame
    frame_id: str
    root: str
    distorted: bool


def parse_plan(plan: Mapping[str, Mapping[str, Any]]) -> list[Step]:
    """The steps of a plan in the order in which they run.

    A plan maps the name of each step to the parameters of its generator and, where wanted, to the options of the step:

    - ``generator``: its generator; the name of the step where left out, so that one generator can have several steps.
    - ``on``: the step or list of steps whose frames it acts on, or ``input``. By default rattles act on the supercells
      and vacancies on the rattled frames, where the plan has them; supercells, strains and isolated atoms on the input.
    - ``keep``: whether its frames are part of the result (default true).
    - ``n_sources``: act on at most so many source frames, drawn at random.

    The order of the mapping does not matter: databases do not keep it.

    :raises ValueError: for an unknown generator, parameter or step, a value out of range, or steps that wait for each
        other.
    """
    if not isinstance(plan, Mapping) or not plan:
        raise ValueError('the plan is empty: name at least one generator, e.g. {"rattle": {}}')
    generators = {name: _generator(name, options) for name, options in plan.items()}
    order = list(GENERATORS)
    names = sorted(plan, key=lambda name: (order.index(generators[name].name), name))
    waiting = [_step(name, generators, plan[name]) for name in names]
    steps: list[Step] = []
    while waiting:
        done = {INPUT, *(step.name for step in steps)}
        ready = next((step for step in waiting if done.issuperset(step.on)), None)
        if ready is None:
            cycle = ', '.join(step.name for step in waiting)
            raise ValueError(f'the steps {cycle} wait for each other: correct what they act `on`')
        waiting.remove(ready)
        steps.append(ready)
    return steps


def _generator(name: str, options: object) -> Generator:
    if not isinstance(options, Mapping):
        raise ValueError(
            f'step {name!r} of the plan is {options!r}, expected a mapping of parameters; {{}} for the defaults'
        )
    if name == INPUT:
        raise ValueError(f'a step of the plan cannot be named {INPUT!r}: that is what the given frames are called')
    return lookup(GENERATORS, options.get('generator', name), 'generator')


def _step(name: str, generators: Mapping[str, Generator], options: Mapping[str, Any]) -> Step:
    generator = generators[name]
    given = {key: value for key, value in options.items() if key not in STEP_OPTIONS}
    keep, n_sources = options.get('keep', True), options.get('n_sources')
    if not isinstance(keep, bool):
        raise ValueError(f'`keep` of step {name!r} is {keep!r}, expected true or false')
    if n_sources is not None:
        integer(f'n_sources` of step `{name}', n_sources, 1)
    try:
        parameters: Any = build(generator.parameters, given, f'parameter of `{generator.name}`', STEP_OPTIONS)
    except ValueError as error:
        raise ValueError(f'step {name!r} of the plan: {error}') from error
    return Step(name, generator, parameters, _sources(name, generators, options.get('on')), keep, n_sources)


def _sources(name: str, generators: Mapping[str, Generator], on: object) -> tuple[str, ...]:
    if on is None:
        for wanted in generators[name].default_on:
            steps = [other for other in generators if generators[other].name == wanted and other != name]
            if steps:
                return tuple(sorted(steps))
        return (INPUT,)
    sources = [on] if isinstance(on, str) else on
    if not isinstance(sources, (list, tuple)) or not sources:
        raise ValueError(f'`on` of step {name!r} is {on!r}, expected the name of a step, a list of them, or {INPUT!r}')
    known = [INPUT, *(other for other in generators if other != name)]
    for source in sources:
        if source not in known:
            raise ValueError(f'step {name!r} of the plan: {unknown_name(source, known, "step to act `on`:")}')
    return tuple(sources)


def generate(
    frames: Sequence[Frame],
    plan: Mapping[str, Mapping[str, Any]],
    seed: int,
    max_atoms: int | None = None,
    min_distance: float = 0.6,
) -> Generation:
    """Frames made of others by a plan; see :func:`parse_plan` for how it is written.

    The given frames themselves are not part of the result; a supercell with the repetition 1, 1, 1 is one. Each
    independently drawn distortion is a lineage of its own, ``<first 16 digits of the frame_id of the given
    frame>:<step>:<k>``, and what is made of a distorted frame keeps its lineage. A refused frame is no source for
    others. The same arguments give the same frames, and a source frame more does not change what is made of the others.

    :param seed: of everything that is drawn.
    :param max_atoms: frames with more atoms are refused.
    :param min_distance: frames with a contact below this fraction of the sum of the covalent radii are refused.
    :raises ValueError: for no frames, or a plan that :func:`parse_plan` refuses.
    """
    if not frames:
        raise ValueError('there are no frames to start from: give at least one structure')
    number('min_distance', min_distance, 0.0, 1.5)
    if max_atoms is not None:
        integer('max_atoms', max_atoms, 1)
    steps = parse_plan(plan)
    products = {INPUT: [_input(frame) for frame in frames]}
    result = Generation([], [], [])
    seen: set[str] = set()
    for step in steps:
        made = _run(step, [product for name in step.on for product in products[name]], seed, result.notes)
        products[step.name] = _gate(step, made, result, max_atoms, min_distance)
        if step.keep:
            _collect(step, products[step.name], result, seen)
    return result


def _input(frame: Frame) -> _Product:
    root = frame.frame_id[:16]
    bare = frame.unlabelled().replace(lineage=frame.lineage or root, split='')
    return _Product(bare, frame.frame_id, root, distorted=False)


def _run(step: Step, sources: list[_Product], seed: int, notes: list[str]) -> list[_Product]:
    """Frames that a step makes, each with its lineage."""
    made: list[_Product] = []
    counter: Counter[str] = Counter()
    for source in _suitable(step, sources, seed, notes):
        frames = step.generator.function(source.frame, step.parameters, derive_seed(seed, step.name, source.frame_id))
        start = counter[source.root]
        for k, frame in enumerate(frames):
            made.append(_product(step, source, frame, start + (k if step.generator.lineage == 'frame' else 0)))
        counter[source.root] += len(frames) if step.generator.lineage == 'frame' else 1
    return made


def _suitable(step: Step, sources: list[_Product], seed: int, notes: list[str]) -> list[_Product]:
    """The sources a step acts on, in their order; notes say why others are left out."""
    reasons = [step.generator.unsuitable(source.frame, step.parameters) for source in sources]
    for reason, count in Counter(filter(None, reasons)).items():
        notes.append(f'{step.name}: {count} of {len(sources)} source frames left out, each {reason}')
    suitable = [source for source, reason in zip(sources, reasons, strict=True) if not reason]
    if step.n_sources is None or len(suitable) <= step.n_sources:
        return suitable
    # A rank by hash, not a draw by position: another source frame displaces at most one of those chosen.
    ranks = [derive_seed(seed, step.name, 'source', source.frame_id) for source in suitable]
    chosen = sorted(sorted(range(len(suitable)), key=lambda i: (ranks[i], i))[: step.n_sources])
    return [suitable[i] for i in chosen]


def _product(step: Step, source: _Product, frame: Frame, k: int) -> _Product:
    kind = step.generator.lineage
    distorts = kind in ('frame', 'step')
    if distorts and not source.distorted:
        frame = frame.replace(lineage=f'{source.root}:{step.name}:{k}')
    return _Product(frame, frame.frame_id, source.root, source.distorted or distorts)


def _gate(
    step: Step, made: list[_Product], result: Generation, max_atoms: int | None, min_distance: float
) -> list[_Product]:
    passed = []
    for product in made:
        reason = too_large(product.frame, max_atoms) or too_close(product.frame, min_distance)
        if reason:
            result.rejected.append(RejectedFrame(product.frame, step.name, reason))
        else:
            passed.append(product)
    return passed


def _collect(step: Step, products: list[_Product], result: Generation, seen: set[str]) -> None:
    new = []
    for product in products:
        if product.frame_id not in seen:
            seen.add(product.frame_id)
            new.append(product.frame)
    result.frames.extend(new)
    if len(new) < len(products):
        result.notes.append(f'{step.name}: {len(products) - len(new)} of {len(products)} frames left out as duplicates')
