"""The stages of `gpu.sh` that make cells of examples/studies on a GPU: many short runs side by side."""

import json
import math
import os
import shutil
import sys
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Dict, List, NamedTuple, Optional, Sequence

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "examples" / "studies")]

from plan import STUDIES
from stages import DONE, ENDED, LATE, Outcome, Stage

LOG = "studies.log"
# Programs take turns on a GPU, unless NVIDIA's MPS runs them side by side. Where it is not installed they take turns.
MPS = "nvidia-cuda-mps-control"
DEVICE = {"cpu": ["--device", "cpu"], "cuda": ["--device", "cuda"]}
BEGIN, END = f"command -v {MPS} || exit 0; {MPS} -d", f"command -v {MPS} || exit 0; echo quit | {MPS}"
BEGINS_MPS = "studies, MPS"
# MPS' own server begins with the first program that takes the GPU: where that one cannot, MPS ends, and programs take turns.
PROBE = f"""probe() {{ timeout 60 "$1" -c "import torch; print(torch.ones(8, device='cuda').sum().item())"; }}
probe "$1" && echo "the GPU computes" && exit 0
echo "the GPU does not compute under {MPS}, or without it where it is not installed"
({END})
probe "$1" && echo "the GPU computes without {MPS}" """
# The raw results, without what is made again. The file is whole or the one before; tar's 1 is a file that changed meanwhile.
RAW = "studies"
KEEP = f"""tar -czf "$1.tmp" '--exclude=*.pt' --exclude=data -C "$2" {RAW}
case $? in 0 | 1) mv "$1.tmp" "$1" ;; *) rm -f "$1.tmp"; exit 1 ;; esac"""
# Seconds.
REPORT_LIMIT, KEEP_LIMIT, SETS_LIMIT, END_LIMIT = 20, 20, 150, 15

SURVIVES = "survives"  # a script of its own
# What tells that a model was measured: elsewhere.py's file and the sets in it, and survives.py's.
SETS_FILE, SETS = "elsewhere.json", {"SNLI", "RTE"}
SCORES_FILE = "scores.json"


class Part(NamedTuple):
    """A cell of a study, given as STUDY:CELL, or the study of what survives, which has none."""

    study: str
    cell: str

    @property
    def is_measured_elsewhere(self) -> bool:
        """Whether its models are measured on other data, too."""
        return self.study in STUDIES and STUDIES[self.study].keeps_checkpoints

    @classmethod
    def read(cls, text: str) -> "Part":
        """
        >>> Part.read("few:SST-2-300")
        Part(study='few', cell='SST-2-300')

        Raises:
            ValueError: there is no such cell.
        """
        study, _, cell = text.partition(":")
        if text == SURVIVES:
            return cls(study, cell)
        if study not in STUDIES:
            raise ValueError(f"{text}: the study is one of {', '.join(STUDIES)}, as few:SST-2-300, or {SURVIVES}")
        cells = [one.name for one in STUDIES[study].cells]
        if cell not in cells:
            raise ValueError(f"{text}: the cells of {study} are {', '.join(cells)}")
        return cls(study, cell)


def what_is_wrong(args) -> str:
    """With the arguments about studies; nothing where they fit."""
    if args.resume and not (args.studies or args.sts):
        return "--resume wants --studies or --sts: only they go on from earlier results"
    if args.resume and not args.resume.is_file():
        return f"--resume {args.resume}: there is no such file"
    # The models of such a study are not kept: a set that is missing now could not be measured later.
    if any(part.is_measured_elsewhere for part in args.studies):
        if args.snli is None or not args.snli.is_file():
            return "--studies elsewhere wants --snli, SNLI's test set" + (f"; {args.snli} is not there" if args.snli else "")
        if rte_of(args.glue) is None:
            return f"--studies elsewhere wants {args.glue / 'RTE' / 'dev.tsv'}, or dev.tsv.gz"
    return ""


def rte_of(glue: Path) -> Optional[Path]:
    """RTE's development set, packed or not."""
    return next((path for path in (glue / "RTE" / "dev.tsv", glue / "RTE" / "dev.tsv.gz") if path.is_file()), None)


def study_stages(args, scratch: Path, environment: Dict[str, str]) -> List[List[Stage]]:
    """Each cell by itself, so that what is finished is whole; its report and all raw results go to ``args.out`` after it.

    A cell may take all the time that is left, but for that of the stages after it.
    """
    python, backbone, work = sys.executable, scratch / "studies-minilm", scratch / RAW
    own = {**environment, "OMP_NUM_THREADS": "1"}
    jobs = max(1, len(os.sched_getaffinity(0)) - 2)

    def stage(name: str, command: Sequence, limit: float) -> Stage:
        return Stage(f"studies, {name}", command, limit, LOG, own)

    def in_turn(trains: Stage, *after: Stage) -> List[List[Stage]]:
        spare = sum(one.limit for one in after) + (END_LIMIT if args.device == "cuda" else 0)
        return [[trains._replace(spare=spare)], *([one] for one in after)]

    place = ["--cpu"] if args.device == "cpu" else ["--devices", "0"]  # else runs of the CPU would pass for a GPU's
    groups = [[stage("convert", [python, "-m", "sharp_plugins.convert", args.minilm, backbone], 45)]]
    if args.device == "cuda":
        groups += [[Stage(BEGINS_MPS, ["bash", "-c", BEGIN], 15, LOG, own)]]
        groups += [[stage("GPU", ["bash", "-c", PROBE, "bash", python], 150)]]
    keep, tables = keep_command(args, scratch), work / "tables"  # beside the raw results: but a few files may come back
    for part in args.studies:
        study, cell = part
        data = ["--backbone", backbone, "--data", args.glue, "--jobs", jobs, *place]
        if study == SURVIVES:
            run = [python, "examples/studies/survives.py", *data, "--out", work / SURVIVES, "--to", tables]
            groups += in_turn(stage(SURVIVES, run, math.inf), stage(f"results after {SURVIVES}", keep, KEEP_LIMIT))
            continue
        run = [python, "examples/studies/study.py", study, "--cells", cell, *data, "--out", work]
        tell = [python, "examples/studies/report.py", study, "--out", work, "--to", tables]
        after = [stage(f"{study}'s report after {cell}", tell, REPORT_LIMIT)]
        if part.is_measured_elsewhere:  # the models stay here: what they are for is measured now
            sets = ["--rte", rte_of(args.glue), "--snli", args.snli]
            other = [python, "examples/studies/elsewhere.py", "--backbone", backbone, *sets, "--out", work, "--to", tables]
            after.append(stage(f"{study}'s other sets after {cell}", [*other, *DEVICE[args.device]], SETS_LIMIT))
        groups += in_turn(stage(f"{study} {cell}", run, math.inf), *after, stage(f"results after {cell}", keep, KEEP_LIMIT))
    if args.sts:
        shallow, name = scratch / "studies-minilm3", "similarity-3-layers"
        convert = [python, "-m", "sharp_plugins.convert", args.minilm, shallow, "--keep-layers", 3]
        run = [python, "examples/studies/similarity.py", "--backbone", shallow, "--data", args.sts, "--text", args.text, *place]
        run += ["--out", work / name, "--to", tables, "--name", name, "--jobs", jobs]
        groups.append([stage("convert three layers", convert, 45)])
        groups += in_turn(stage("similarity", run, math.inf), stage("similarity's results", keep, KEEP_LIMIT))
    return groups


def keep_command(args, scratch: Path) -> List:
    """Puts all raw results into the output."""
    return ["bash", "-c", KEEP, "bash", args.out / "studies.tgz", scratch]


def closing_stages(args, scratch: Path, outcomes: Sequence[Outcome]) -> List[Stage]:
    """What is to be done however the stages ended, by their *outcomes*: the raw results are kept, MPS does not stay."""
    stages = []
    if (scratch / RAW).is_dir():
        stages.append(Stage("studies, results at the end", keep_command(args, scratch), KEEP_LIMIT, LOG))
    # Where it failed, somebody else may have begun it.
    if any(outcome.stage.name == BEGINS_MPS and outcome.status in (DONE, LATE, ENDED) for outcome in outcomes):
        stages.append(Stage("studies, MPS' end", ["bash", "-c", END], END_LIMIT, LOG))
    return stages


def unpack(file: Path, scratch: Path) -> None:
    """Put the raw results of an earlier call where this one's will be. Where that cannot be, the program ends."""
    try:
        with tarfile.open(file, "r:gz") as packed:
            for member in packed:
                if not is_result(member):
                    raise tarfile.TarError(f"{member.name} is no file of {RAW}/")
                packed.extract(member, scratch, filter="data")
        forget_unmeasured(scratch / RAW)
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError) as error:
        sys.exit(f"error: --resume {file}: {error}")


def is_result(member: tarfile.TarInfo) -> bool:
    """Whether it is a file or a directory below `RAW`: no link, and nothing elsewhere.

    >>> [is_result(tarfile.TarInfo(name)) for name in ("studies/few/result.json", "studies/../x", "/studies/x", "x/studies")]
    [True, False, False, False]
    """
    parts = PurePosixPath(member.name).parts
    return parts[:1] == (RAW,) and ".." not in parts and (member.isfile() or member.isdir())


def forget_unmeasured(work: Path) -> None:
    """Delete the results of runs whose models are still to be measured: no model was packed, so these are trained again."""
    for home in (work / SURVIVES).glob("*+*/*/seed*"):  # of a method and a seed
        if not (home / SCORES_FILE).is_file():
            shutil.rmtree(home)
    for result in work.rglob("result.json"):
        if json.loads(result.read_text(encoding="utf-8")).get("checkpoints") != "kept":
            continue
        if result.is_relative_to(work / SURVIVES):
            _, method, *_ = result.relative_to(work / SURVIVES).parts
            is_measured = any((work / SURVIVES).glob(f"*+*/{method}/{result.parent.name}"))
        else:
            file = result.with_name(SETS_FILE)
            is_measured = file.is_file() and SETS <= set(json.loads(file.read_text(encoding="utf-8")))
        if not is_measured:
            result.unlink()
