"""What loading the plugin into fairseq adds to fairseq's start-up.

Fresh processes take turns at importing what fairseq-train imports, without the plugin and with it; the table gives medians
and quartiles, and the difference within each pair of turns. The target is at most 0.5 s.

    python examples/benchmarks/start_up.py
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import List, Tuple

sys.path[:0] = [str(Path(__file__).resolve().parent)]

import machine

ROOT = Path(__file__).resolve().parents[2]
FAIRSEQ = "import fairseq_cli.train"
# As fairseq does with --user-dir sharp_plugins, after it has imported itself.
TIMED = """
import sys, time
start = time.perf_counter()
{imports}
print(time.perf_counter() - start)
"""


def seconds(*imports: str) -> float:
    """Import time in a process of its own, by that process's clock."""
    code = TIMED.format(imports="\n".join(imports))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
    )
    return float(done.stdout.split()[-1])


def measure(rounds: int) -> List[Tuple[float, float]]:
    """(without, with) the plugin, *rounds* times, after one turn that brings the files into memory."""
    with_plugin = (FAIRSEQ, "import sharp_plugins; sharp_plugins.register()")
    seconds(*with_plugin)
    return [(seconds(FAIRSEQ), seconds(*with_plugin)) for _ in range(rounds)]


def main(given=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="pairs of processes (default: %(default)s)")
    parser.add_argument("--out", default="", help="append the table to this file")
    args = parser.parse_args(given)
    pairs = measure(args.rounds)
    without, added = [pair[0] for pair in pairs], [pair[1] - pair[0] for pair in pairs]
    rows = [
        ("import fairseq_cli.train", machine.quartiles(without), ""),
        ("the same, and sharp_plugins.register()", machine.quartiles([pair[1] for pair in pairs]), ""),
        ("difference within a pair", machine.quartiles(added), "≤ 0.5"),
    ]
    machine.report("Start-up", machine.table(("what", "median (quartiles), s", "target"), rows), out=args.out)


if __name__ == "__main__":
    main()
