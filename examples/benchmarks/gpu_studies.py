"""The stages of `gpu.sh` that make cells of examples/studies on a GPU: many short runs side by side."""

import os
import sys
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "examples" / "studies")]

from plan import STUDIES
from stages import Stage

LOG = "studies.log"
# Programs take turns on a GPU, unless NVIDIA's MPS runs them side by side. Where it is not installed they take turns.
MPS = "nvidia-cuda-mps-control"
DEVICE = {"cpu": ["--device", "cpu"], "cuda": []}
BEGIN, END = f"command -v {MPS} || exit 0; {MPS} -d", f"command -v {MPS} || exit 0; echo quit | {MPS}"


SURVIVES = "survives"  # a script of its own


class Part(NamedTuple):
    """A cell of a study, given as STUDY:CELL, or the study of what survives, which has none."""

    study: str
    cell: str

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


def study_stages(args, scratch: Path, environment: Dict[str, str]) -> List[List[Stage]]:
    """Each cell by itself, so that what is finished is whole; its report and all raw results go to ``args.out`` after it."""
    python, backbone, work = sys.executable, scratch / "studies-minilm", scratch / "studies"
    own = {**environment, "OMP_NUM_THREADS": "1"}
    jobs = max(1, len(os.sched_getaffinity(0)) - 2)

    def stage(name: str, command: Sequence, limit: float) -> List[Stage]:
        return [Stage(f"studies, {name}", command, limit, LOG, own)]

    place = ["--cpu"] if args.device == "cpu" else []
    groups = [stage("convert", [python, "-m", "sharp_plugins.convert", args.minilm, backbone], 45)]
    groups += [stage("MPS", ["bash", "-c", BEGIN], 15)] if args.device == "cuda" else []
    keep = ["tar", "-czf", args.out / "studies.tgz", "--exclude=*.pt", "--exclude=data", "-C", scratch, "studies"]
    for study, cell in args.studies:
        data = ["--backbone", backbone, "--data", args.glue, "--jobs", jobs, *place]
        if study == SURVIVES:
            run = [python, "examples/studies/survives.py", *data, "--out", work / SURVIVES, "--to", args.out]
            groups += [stage(SURVIVES, run, 400), stage(f"results after {SURVIVES}", keep, 20)]
            continue
        run = [python, "examples/studies/study.py", study, "--cells", cell, *data, "--out", work]
        tell = [python, "examples/studies/report.py", study, "--out", work, "--to", args.out]
        groups.append(stage(f"{study} {cell}", run, 400))
        groups.append(stage(f"{study}'s report after {cell}", tell, 20))
        if STUDIES[study].keeps_checkpoints:  # they stay here: what they are for is measured now
            sets = ["--rte", args.glue / "RTE" / "dev.tsv", *(["--snli", args.snli] if args.snli else [])]
            other = [python, "examples/studies/elsewhere.py", "--backbone", backbone, *sets, "--out", work, "--to", args.out]
            groups.append(stage(f"{study}'s other sets after {cell}", [*other, *DEVICE[args.device]], 90))
        groups.append(stage(f"results after {cell}", keep, 20))
    if args.sts:
        part, name = scratch / "studies-minilm3", "similarity-3-layers"
        convert = [python, "-m", "sharp_plugins.convert", args.minilm, part, "--keep-layers", 3]
        run = [python, "examples/studies/similarity.py", "--backbone", part, "--data", args.sts, "--text", args.text, *place]
        run += ["--out", work / name, "--to", args.out, "--name", name, "--jobs", jobs]
        groups += [
            stage("convert three layers", convert, 45),
            stage("similarity", run, 500),
            stage("similarity's results", keep, 20),
        ]
    groups += [stage("MPS' end", ["bash", "-c", END], 15)] if args.device == "cuda" else []
    return groups
