"""How long an update of each method takes on real data: of runs that the engine has made, such as WebNLG's.

    python -m sharp_plugins.webnlg run --backbone OUT --data DATA --out runs/w --methods lora lora-sam ft ...   # GLUE too
    python examples/benchmarks/run_steps.py runs/w/data-to-text/*/seed1 --rounds 6

Each directory's run.yaml makes a fairseq trainer; all take the same batches in turns, in one process. The weights are those of the
start. The first directory is what the others are compared with; a run that was only begun will do.
"""

import argparse
import itertools
import statistics
import sys
from pathlib import Path
from typing import Dict, List, Sequence

sys.path[:0] = [str(Path(__file__).resolve().parent)]

import machine

machine.quiet()

import measure
import torch
from fairseq import tasks
from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.initialize import add_defaults
from fairseq.trainer import Trainer
from omegaconf import OmegaConf

import sharp_plugins


def arguments(given=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="directories of runs, with run.yaml")
    parser.add_argument("--rounds", type=int, default=6, help="batches, and turns of every method (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's choice)")
    parser.add_argument("--out", default="", help="append the tables to this file")
    args = parser.parse_args(given)
    if args.threads:
        torch.set_num_threads(args.threads)
    missing = [str(run) for run in args.runs if not (run / "run.yaml").is_file()]
    if missing:
        parser.error(f"no run.yaml in {', '.join(missing)}")
    if len(set(names_of(args.runs))) < len(args.runs):
        parser.error("a RUN is there twice")
    return args


def trainer_of(run: Path) -> Trainer:
    """As fairseq-hydra-train makes it, with new weights in the place of the backbone's."""
    cfg = OmegaConf.merge(OmegaConf.structured(FairseqConfig), OmegaConf.load(run / "run.yaml"))
    OmegaConf.set_struct(cfg, False)
    add_defaults(cfg)
    cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))
    cfg.common.tensorboard_logdir = None
    task = tasks.setup_task(cfg.task)
    trainer = Trainer(cfg, task, task.build_model(cfg.model), task.build_criterion(cfg.criterion))
    task.load_dataset(cfg.dataset.train_subset)
    return trainer


def names_of(runs: Sequence[Path]) -> List[str]:
    """What the runs' directories differ in.

    >>> names_of([Path("w/RTE/base/seed1"), Path("w/RTE/sam/seed1")])
    ['base', 'sam']
    """
    parts = [run.absolute().parts for run in runs]
    shared = set.intersection(*map(set, parts))
    return [" ".join(part for part in own if part not in shared) or run.name for own, run in zip(parts, runs)]


def samples_of(trainer: Trainer, count: int) -> List[Dict]:
    """The first batches of the first epoch."""
    batches = trainer.get_train_iterator(epoch=1).next_epoch_itr(shuffle=True)
    return list(itertools.islice(batches, count))


def in_turns(trainers: Dict[str, Trainer], samples: List[Dict]) -> Dict[str, List[float]]:
    """Seconds of each update of each method; entry i of all lists is of the same batch."""
    for trainer in trainers.values():
        trainer.begin_epoch(1)
    updates = [[measure.stepper(trainer, sample) for trainer in trainers.values()] for sample in samples]
    # `measure.in_turns` makes two steps of each that are not timed.
    steps = {name: one_by_one([own[0], own[0], *own]) for name, own in zip(trainers, zip(*updates))}
    return measure.in_turns(steps, len(samples), measure.CLOCKS["wall"])


def one_by_one(steps: List[measure.Step]) -> measure.Step:
    """Makes the next one of *steps* each time."""
    left = iter(steps)
    return lambda: next(left)()


def table(seconds: Dict[str, List[float]]) -> str:
    first = next(iter(seconds.values()))
    rows = []
    for name, values in seconds.items():
        ratio = machine.quartiles([own / other for own, other in zip(values, first)])
        rows.append((name, f"{statistics.median(values):.2f}", ratio if values is not first else "1"))
    return machine.table(("method", "median s", f"of {next(iter(seconds))}: median (quartiles)"), rows)


def main(given=None) -> None:
    args = arguments(given)
    sharp_plugins.register()
    trainers = {name: trainer_of(run) for name, run in zip(names_of(args.runs), args.runs)}
    samples = samples_of(next(iter(trainers.values())), args.rounds)
    tokens = statistics.fmean(float(sample["ntokens"]) for sample in samples)
    device = "cuda" if next(iter(trainers.values())).cuda else "cpu"
    title = f"Updates of {len(trainers)} methods, {tokens:.0f} target tokens each"
    machine.report(title, table(in_turns(trainers, samples)), device, args.out)


if __name__ == "__main__":
    main()
