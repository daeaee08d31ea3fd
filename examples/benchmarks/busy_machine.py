"""How fast a training on several CPU threads is beside another busy program, for several ways in which threads wait.

Training processes of the quickstart's small model take turns: each setting on a quiet machine, and then beside a
program that keeps one core busy. Speed is the median of the updates per second that fairseq logs, after the first ones. The
table gives it, and over the speed of torch's own setting on the quiet machine, in the same round.

    bash examples/quickstart/run.sh                             # makes runs/quickstart/data/bin, among other things
    python examples/benchmarks/busy_machine.py --data runs/quickstart/data/bin
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Dict

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import machine
from omegaconf import OmegaConf

from sharp_plugins.files.yaml import read_yaml
from sharp_plugins.runs import threads
from sharp_plugins.runs.configs import Settings, configure
from sharp_plugins.runs.methods import find_method

SMALL = HERE.parents[1] / "sharp_plugins" / "webnlg" / "settings" / "small.yaml"
SETTINGS = {
    "torch's own": {},
    "wait asleep": {"OMP_WAIT_POLICY": "passive"},
    "short spin (the runs')": threads.SPIN,
    "one thread (the runs', where it is busy from the start)": {threads.THREADS: "1"},
}
INTERVAL, UNCOUNTED = 20, 2  # updates between two log lines; lines left out at the beginning


def speed(data: Path, updates: int, limit: float, environment: Dict[str, str], busy: bool) -> float:
    """Updates per second of one process, which is stopped after *limit* seconds."""
    unset = (threads.THREADS, *threads.WAITING)
    own = {key: value for key, value in os.environ.items() if key not in unset}
    config = configure(Settings(read_yaml(SMALL)), find_method("sam"), cpu=True)
    config["common"].update(user_dir=str(HERE.parents[1] / "sharp_plugins"), log_interval=INTERVAL, tensorboard_logdir=None)
    config["task"]["data"] = str(data.resolve())
    config["dataset"]["disable_validation"] = config["checkpoint"]["no_save"] = True
    config["optimization"]["max_update"] = updates
    code = "from fairseq_cli.hydra_train import cli_main; cli_main()"
    flags = "--config-dir . --config-name run hydra.run.dir=. hydra.output_subdir=null hydra/job_logging=stdout"
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryFile("w+") as log:
        Path(place, "run.yaml").write_text("# @package _group_\n" + OmegaConf.to_yaml(OmegaConf.create(config)))
        try:
            subprocess.run(
                [sys.executable, "-c", code, *flags.split()],
                cwd=place,
                env={**own, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=limit,
            )
        except subprocess.TimeoutExpired:
            pass
        finally:
            if neighbour is not None:
                neighbour.kill()
                neighbour.wait()
        log.seek(0)
        text = log.read()
    speeds = [float(number) for number in re.findall(r'"ups": "([0-9.]+)"', text)][UNCOUNTED:]
    if not speeds:
        raise SystemExit(f"error: no update was counted in {limit} s; the log ends with\n{text[-2000:]}")
    return statistics.median(speeds)


def main(given=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="binarized data, as the quickstart makes them")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every setting (default: %(default)s)")
    parser.add_argument("--updates", type=int, default=200, help="updates of a process (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=120, help="seconds after which one is stopped (default: %(default)s)")
    words = "counts of spins that are tried, too (example: 1000 10000); the runs' is 4000"
    parser.add_argument("--spins", nargs="+", type=int, default=[], metavar="N", help=words)
    parser.add_argument("--out", default="", help="append the table to this file")
    args = parser.parse_args(given)
    settings = {**SETTINGS, **{f"GOMP_SPINCOUNT={count}": {"GOMP_SPINCOUNT": str(count)} for count in args.spins}}
    speeds: Dict = {(name, busy): [] for name in settings for busy in (False, True)}
    for _ in range(args.rounds):
        for (name, busy), found in speeds.items():
            found.append(speed(args.data, args.updates, args.limit, settings[name], busy))
    quiet = speeds["torch's own", False]
    shares = {key: [value / own for value, own in zip(found, quiet)] for key, found in speeds.items()}
    rows = [(name, *(machine.quartiles(of[name, busy]) for of in (speeds, shares) for busy in (False, True))) for name in settings]
    head = ("setting", "quiet, updates/s", "beside one busy program", "quiet, over torch's own", "beside one busy program")
    note = "SAM, the quickstart's small model."
    machine.report("Speed on a busy machine", f"{note}\n\n{machine.table(head, rows)}", out=args.out)


if __name__ == "__main__":
    main()
