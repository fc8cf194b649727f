"""Break one guard of the driver after the other, in a copy of the project: the tests must notice each (mutants.md).

    ./tests/run mutants [WORD...]     only those whose title, file or test has one of the words
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Optional

PROJECT = Path(__file__).resolve().parent.parent
LIST = PROJECT / "tests/mutants.md"
WORKERS = 2
_ENTRY = re.compile(
    r"^## (?P<why>[^\n]+)\n\n`(?P<file>[^`\n]+)`, `(?P<test>[^`\n]+)`\n\n```diff\n(?P<diff>.+?)^```$", re.M | re.S
)
_COPIED = ("datastore", "etc", "lib", "tests", "tm", "vmm", "pyproject.toml", "README.md", "install.sh")
_OLD_COPIES = shutil.ignore_patterns("__pycache__", ".pytest_cache", ".hypothesis")
_SECONDS = 900.0


@dataclass(frozen=True)
class Mutant:
    """A guard and how it is broken: `old` occurs once in `file`; `test` must fail with `new` in its place."""

    why: str
    file: str
    old: str
    new: str
    test: str


def listed() -> list[Mutant]:
    """Return the mutants of the list."""
    found = []
    for entry in _ENTRY.finditer(LIST.read_text(encoding="utf-8")):
        lines = entry["diff"].splitlines()
        old, new = ("\n".join(line[1:] for line in lines if line[0] == sign) for sign in "-+")
        found.append(Mutant(entry["why"], entry["file"], old, new, entry["test"]))
    return found


class Copy:
    """A copy of the project that one mutant at a time is put into."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        for name in _COPIED:
            source = PROJECT / name
            if source.is_dir():
                shutil.copytree(source, directory / name, symlinks=True, ignore=_OLD_COPIES)
            else:
                shutil.copy2(source, directory / name)

    def judge(self, mutant: Mutant) -> str:
        """Return "killed", "survived" or why there is no verdict."""
        file = self.directory / mutant.file
        whole = file.read_text(encoding="utf-8")
        if whole.count(mutant.old) != 1:
            return f"the old text occurs {whole.count(mutant.old)} times"
        file.write_text(whole.replace(mutant.old, mutant.new), encoding="utf-8")
        try:
            code = self._test("-x", mutant.test, seconds=_SECONDS).returncode
        except subprocess.TimeoutExpired:
            return f"no verdict: the test did not end within {_SECONDS:.0f} s"
        finally:
            file.write_text(whole, encoding="utf-8")
        return {0: "survived", 1: "killed"}.get(code, f"no verdict: pytest ended with {code}")

    def passing(self, tests: set[str]) -> set[str]:
        """Return those of the tests that run and succeed here while nothing is broken."""
        side_by_side = ("-n", str(WORKERS), "--dist", "loadfile")
        said = self._test("-rA", *side_by_side, *sorted(tests)).stdout.splitlines()

        def ended(word: str, test: str) -> bool:
            return any(line.startswith(f"{word} {test}") for line in said)

        return {test for test in tests if ended("PASSED", test) and not ended("FAILED", test)}

    def _test(self, *words: str, seconds: Optional[float] = None) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
        return subprocess.run(argv, cwd=self.directory, capture_output=True, text=True, timeout=seconds, check=False)


def run(mutants: Sequence[Mutant]) -> list[str]:
    """Judge mutants, print a row each, and return the verdicts."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        copies: SimpleQueue[Copy] = SimpleQueue()
        for number in range(WORKERS):
            copies.put(Copy(Path(directory) / str(number)))
        passing = Copy(Path(directory) / "whole").passing({mutant.test for mutant in mutants})

        def judged(mutant: Mutant) -> str:
            if mutant.test not in passing:
                return f"no verdict: {mutant.test} does not succeed here, or was skipped, while nothing is broken"
            copy = copies.get()
            try:
                return copy.judge(mutant)
            finally:
                copies.put(copy)

        verdicts = []
        with ThreadPoolExecutor(WORKERS) as pool:
            for mutant, verdict in zip(mutants, pool.map(judged, mutants)):
                print(f"{verdict:9} {mutant.file}: {mutant.why}", flush=True)
                verdicts.append(verdict)
    return verdicts


def main(words: Sequence[str]) -> int:
    """Run the listed mutants; returns 0 when every one was killed, 2 when none has these words."""
    chosen = [
        mutant for mutant in listed()
        if not words or any(word in f"{mutant.why} {mutant.file} {mutant.test}" for word in words)
    ]
    if not chosen:
        print(f"mutants: tests/mutants.md has none with {' or '.join(words)}", file=sys.stderr)
        return 2
    verdicts = run(chosen)
    killed, survived = verdicts.count("killed"), verdicts.count("survived")
    rest = len(verdicts) - killed - survived
    more = f", {rest} without a verdict" if rest else ""
    print(f"mutants: {len(verdicts)}, {killed} killed, {survived} survived{more}")
    return 0 if killed == len(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
