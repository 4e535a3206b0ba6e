"""`python -m bench [CASE ...]`: run cases, print their tables, write their rows."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import cases
from bench.environment import write_environment
from bench.inputs import ROOT, CaseSkippedError, Settings
from bench.rows import table, write_csv
from bench.timing import DisagreementError


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0, or 1 when a case was refused because an arm's output is wrong."""
    known = (*cases.DEFAULT, *cases.ON_REQUEST)
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "case", nargs="*", metavar="CASE", help=f"{', '.join(known)}; default: all but the last"
    )
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds, at least 5 (default 7)")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: shows that the cases run, not how fast"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results", help="folder for the rows")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.case) - set(known)):
        parser.error(f"no case is called {', '.join(unknown)}; there are {', '.join(known)}")
    if options.rounds < 5 and not options.quick:
        parser.error(f"--rounds {options.rounds}: medians and spreads need at least 5 rounds")
    options.out.mkdir(parents=True, exist_ok=True)
    write_environment(options.out)
    refused = False
    for name in options.case or cases.DEFAULT:
        command = f"python -m bench {name}" + (" --quick" if options.quick else f" --rounds {options.rounds}")
        settings = Settings(2 if options.quick else options.rounds, options.quick)
        try:
            rows = cases.find(name)(settings)
        except CaseSkippedError as reason:
            print(f"{name}: skipped, {reason}", flush=True)
        except DisagreementError as error:
            print(f"REFUSED: {error}", file=sys.stderr, flush=True)
            refused = True
        else:
            write_csv(
                options.out / f"{name}.csv", [dataclasses.replace(row, command=command) for row in rows]
            )
            print(f"{name}\n{table(rows)}\n", flush=True)
    return int(refused)


if __name__ == "__main__":
    sys.exit(main())
