"""Are the checkers blind? Breaks the engine on purpose, and waits until somebody notices.

Each mutant is one mistake that somebody could make, and most have been made: in Flink, Spark,
RisingWave, bytewax. It must be found within 2,000 random seeds, by the property that is named for
it; otherwise a test that passes says nothing. ``python -m flowsnap.testing.mutants`` hunts all of
them, or those named, and prints how many seeds each took.

Source: mutation testing: DeMillo, Lipton and Sayward, "Hints on Test Data Selection" (1978).
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

SEEDS_MAX = 2_000
SEEDS_PER_SHOW = 50
"""How many seeds are looked at for each whose job has what a mutant needs."""
Apply = Callable[["Patch"], None]
"""What breaks the engine."""


class Patch:
    """Replaces attributes of the engine, until it is taken back."""

    def __init__(self) -> None:
        self._originals: list[tuple[Any, str, Any]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Replace an attribute, which must be there.

        Raises:
            AttributeError: it is not: the engine has changed, and the mutant must follow.
        """
        original = owner.__dict__[name] if name in vars(owner) else getattr(owner, name)
        self._originals.append((owner, name, original))
        setattr(owner, name, value)

    def undo(self) -> None:
        """Put everything back."""
        while self._originals:
            setattr(*self._originals.pop())


@dataclass(frozen=True, slots=True)
class Mutant:
    """One broken engine.

    ``seen_by`` are the properties that may be the first to fail. ``needs``: it can show only in
    jobs with one of these steps; none: in any.
    """

    name: str
    mistake: str
    seen_by: tuple[str, ...]
    needs: frozenset[str]
    apply: Apply

    def may_show(self, seed: int) -> bool:
        """Whether the job of a seed has what this mutant breaks."""
        return not self.needs or not self.needs.isdisjoint(kinds_of(seed))

    @contextmanager
    def broken(self) -> Iterator[None]:
        """Have the engine broken meanwhile."""
        patch = Patch()
        try:
            self.apply(patch)
            yield
        finally:
            patch.undo()


MUTANTS: dict[str, Mutant] = {}


def mutant(*seen_by: str, needs: Sequence[str] = ()) -> Callable[[Apply], Apply]:
    """Enter a function into ``MUTANTS``; its docstring says what the mistake is."""

    def enter(apply: Apply) -> Apply:
        name = apply.__name__.replace("_", "-")
        assert name not in MUTANTS, f"two mutants are called {name}"
        assert apply.__doc__, f"{name} does not say what it breaks"
        mistake = apply.__doc__.strip().rstrip(".")
        MUTANTS[name] = Mutant(name, mistake, seen_by, frozenset(needs), apply)
        return apply

    return enter


@dataclass(frozen=True, slots=True)
class Hunt:
    """How it ended for one mutant, at which seed; ``violation`` is empty if it got away."""

    mutant: Mutant
    seeds: int
    seed: int
    violation: str
    seconds: float

    @property
    def is_caught(self) -> bool:
        """Whether a property that is named for it was the first to fail."""
        return self.violation.startswith(tuple(f"{one}:" for one in self.mutant.seen_by))


def hunt(mutant: Mutant, seeds_max: int = SEEDS_MAX, *, known: int | None = None) -> Hunt:
    """Run random seeds with a broken engine until one fails, of those whose job can show it.

    ``known``: a seed that has shown it before; if it does so again, nobody needs those before it.
    """
    if known is not None:
        shown = _hunt(mutant, [known], 1)
        if shown.is_caught:
            return shown
    return _hunt(mutant, range(seeds_max * SEEDS_PER_SHOW), seeds_max)


def _hunt(mutant: Mutant, seeds: Iterable[int], seeds_max: int) -> Hunt:
    # Imported late: mutants are known before anything of the engine is.
    from flowsnap.testing.simulate import run_seed  # noqa: PLC0415

    began_s, violation, tried, seed = time.perf_counter(), "", 0, -1
    with mutant.broken():
        for seed in seeds:
            if mutant.may_show(seed):
                violation = run_seed(seed).violation
                tried += 1
            if violation or tried == seeds_max:
                break
    return Hunt(mutant, tried, seed, violation, time.perf_counter() - began_s)


def kinds_of(seed: int) -> set[str]:
    """Return the kinds of steps that the job of a seed has."""
    from flowsnap.testing.plan import PlanDrawing  # noqa: PLC0415

    return {node.kind for node in PlanDrawing(random.Random(f"{seed}/topology")).nodes}


def table() -> str:
    """Return all mutants as a table of Markdown."""
    load()
    rows = [
        f"| {one.name.replace('-', ' ')} | {one.mistake} | {', '.join(one.seen_by)} |"
        for one in MUTANTS.values()
    ]
    return "\n".join(["| mutant | what it does | seen by |", "|---|---|---|", *rows])


def load() -> dict[str, Mutant]:
    """Return all mutants."""
    from flowsnap.testing import (  # noqa: F401, PLC0415 - they enter themselves
        mutations_channels,
        mutations_output,
        mutations_protocol,
        mutations_state,
        mutations_storage,
    )

    return MUTANTS


# --- the command line ----------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Hunt what the command line names; return 1 if one got away."""
    known = load()
    parser = argparse.ArgumentParser(prog="python -m flowsnap.testing.mutants")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which mutants; all of them")
    parser.add_argument("--seeds", type=int, default=SEEDS_MAX, help="how many seeds for each")
    parser.add_argument("--table", action="store_true", help="print what there is, as Markdown")
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="write down which seed has shown each, as JSON"
    )
    options = parser.parse_args(arguments)
    if options.table:
        print(table())
        return 0
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"there is no mutant {unknown[0]!r}")
    hunts = [_hunt_loudly(known[name], options.seeds) for name in options.names or known]
    if options.record is not None:
        _record(hunts, options.record)
    escaped = [one.mutant.name for one in hunts if not one.is_caught]
    print(f"{len(hunts) - len(escaped)} of {len(hunts)} mutants are caught", *escaped)
    return 1 if escaped else 0


def _record(hunts: Sequence[Hunt], path: Path) -> None:
    known = msgspec.json.decode(path.read_bytes(), type=dict[str, int]) if path.exists() else {}
    known |= {one.mutant.name: one.seed for one in hunts if one.is_caught}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(known, order="sorted"), indent=2))


def _hunt_loudly(one: Mutant, seeds: int) -> Hunt:
    found = hunt(one, seeds)
    verdict = found.violation.partition("\n")[0][:90] or "GOT AWAY"
    print(f"{found.seeds:6} seeds {found.seconds:6.1f} s  {one.name:<44} {verdict}", flush=True)
    return found


if __name__ == "__main__":
    # The module that the mutants know, not a second one by the name of __main__.
    from flowsnap.testing.mutants import main as known_main

    sys.exit(known_main())
