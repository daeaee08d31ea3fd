"""Run and measure what wants a GPU, the most important first, and keep what was found however it ends.

    bash examples/benchmarks/gpu.sh --wheels WHEELS --out OUT              # on a machine with a GPU and without a network
    bash examples/benchmarks/gpu.sh --device cpu --quick --out OUT         # a dry run: a tiny model, the tests skip

OUT gets ``summary.md``, with a table of the stages and the tables of each, and the stages' logs. The exit status is 1 where
a stage failed or was not finished.
"""

import argparse
import os
import re
import shutil
import signal
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Dict, List, Sequence

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE)]

from gpu_studies import Part, closing_stages, study_stages, unpack, what_is_wrong
from stages import Runner, Stage

PRECISIONS = ("bf16", "fp32", "fp16")
DECODERS = ("smollm2-135m", "gpt2-medium")
GLUE_METHODS = ("base", "sam", "dsam", "lora-nbar")
GLUE_TASKS = ("RTE", "CoLA")


def arguments(given=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="what gpu_wheels.sh made; without it fairseq is there")
    parser.add_argument("--out", type=Path, metavar="DIR", default=ROOT / "runs" / "gpu", help="default: runs/gpu")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="a tiny model and few steps: do the stages run at all?")
    parser.add_argument("--minutes", type=float, help="for everything (default: 9, without a GPU 60)")
    parser.add_argument("--workers", type=int, help="processes that each set of tests shares (default: 7, without a GPU 1)")
    parser.add_argument("--minilm", type=Path, metavar="DIR", help="MiniLM as published: config, weights, tokenizer; for GLUE")
    parser.add_argument("--glue", type=Path, metavar="DIR", help="GLUE's files; for GLUE")
    words = "cells of examples/studies, such as few:SST-2-300, or survives; wants --minilm and --glue. All else is left out"
    parser.add_argument("--studies", nargs="+", metavar="STUDY:CELL", default=[], help=words)
    parser.add_argument("--resume", type=Path, metavar="FILE", help="studies.tgz of an earlier call, to go on from; for studies")
    parser.add_argument("--snli", type=Path, metavar="FILE", help="SNLI's test set, for elsewhere:MNLI-1000 beside GLUE's RTE")
    parser.add_argument("--sts", type=Path, metavar="DIR", help="test sets of sentence similarity, for its study; with --text")
    parser.add_argument("--text", type=Path, metavar="FILE", help="the sentences that it trains on")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="stages whose names begin so")
    args = parser.parse_args(given)
    if args.wheels and not any(args.wheels.glob("*.whl")):
        parser.error(f"--wheels {args.wheels}: there is no wheel in it; gpu_wheels.sh makes them")
    if (args.minilm is None) != (args.glue is None):
        parser.error("the runs on GLUE want both --minilm and --glue")
    if args.studies and args.glue is None:
        parser.error("--studies wants --minilm and --glue")
    if (args.sts is None) != (args.text is None) or (args.sts and args.minilm is None):
        parser.error("--sts wants --text, and --minilm and --glue")
    try:
        args.studies = [Part.read(text) for text in args.studies]
    except ValueError as error:
        parser.error(f"--studies {error}")
    wrong = what_is_wrong(args)
    if wrong:
        parser.error(wrong)
    on_gpu = args.device == "cuda"
    args.minutes = args.minutes or (9 if on_gpu else 60)
    args.workers = args.workers or (7 if on_gpu else 1)
    for name in ("wheels", "out", "minilm", "glue", "snli", "sts", "text", "resume"):
        if getattr(args, name) is not None:
            setattr(args, name, getattr(args, name).resolve())  # before main goes to the repository's root
    return args


# ---------------------------------------------------------------------- the stages


def plan(args, scratch: Path) -> List[List[Stage]]:
    """The stages in their order; those of one list run side by side. *scratch* is a directory for what is not kept."""
    python, device = sys.executable, args.device
    # What a stage imports: the wheels, and nothing of this is written beside the machine's own packages.
    site = scratch / "site"
    path = os.pathsep.join(filter(None, [str(site) if args.wheels else "", os.environ.get("PYTHONPATH", "")]))
    environment = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "4")}

    def script(name: str, file: str, limit: float, log: str, *flags) -> Stage:
        found = scratch / f"{name}.md"
        command = [python, f"examples/benchmarks/{file}", "--device", device, *flags, "--out", found]
        return Stage(name, command, limit, log, environment, lambda: read(found))

    def tests(name: str, folder: str, limit: float, **more: str) -> Stage:
        log = f"{name}.log"
        command = [python, "-m", "pytest", folder, "-n", args.workers, "-v", "-rs"]
        command += ["--tb=short", "--show-capture=no", "--disable-warnings", "-p", "no:cacheprovider"]
        # cuBLAS repeats itself bit for bit only with a workspace of its own.
        own = {**environment, "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "OMP_NUM_THREADS": "1", "SHARP_TEST_TELL": "1", **more}
        return Stage(name, command, limit, log, own, lambda: tests_table(name, read(args.out / log)))

    shape = ["--size", "roberta-large", "--batch", 16, "--tokens", 128]
    rounds, steps = ["--rounds", 24], ["--rounds", 0, "--memory-steps", 6]
    if args.quick:
        shape, rounds, steps = ["--size", "tiny", "--batch", 2, "--tokens", 4], ["--rounds", 2], [*steps[:-1], 2]
    time = [*shape, *rounds, "--memory-steps", 0]

    groups = []
    if args.wheels:
        install = [python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir"]
        install += ["--disable-pip-version-check", "--target", site, *sorted(args.wheels.glob("*.whl"))]
        groups.append([Stage("set-up", install, 30, "set-up.log")])
    found = scratch / "machine.md"
    machine = [python, "examples/benchmarks/machine.py", device, found]
    groups.append([Stage("machine", machine, 30, "set-up.log", environment, lambda: read(found))])
    if args.studies or args.sts:
        return groups + study_stages(args, scratch, environment)
    checks = [tests("tests", "tests/gpu", 300)]
    checks.append(script("waits", "synchronisations.py", 60, "time.log", *(["--precisions", "bf16"] if args.quick else [])))
    if device == "cuda":  # on a CPU it is one of the tests
        checks.append(tests("contract", "tests/contract", 240, SHARP_TEST_DEVICE=device))
    groups.append(checks)  # side by side: they time nothing
    for file in ("step_time", "adapters"):
        for one in PRECISIONS[:1] if args.quick else PRECISIONS:
            groups.append([script(f"{file} {one}", f"{file}.py", 75, "time.log", "--precision", one, *time)])
    groups.append([script("bar alone", "adapters.py", 45, "time.log", "--bar-alone", "--precision", "bf16", *shape, *rounds)])
    # Published decoders beside transformers' own.
    short = ["--tiny", "--batch", 2, "--tokens", 4, "--rounds", 2] if args.quick else ["--rounds", 12]
    for one_shape in DECODERS[:1] if args.quick else DECODERS:
        for one in ("bf16",) if args.quick else ("bf16", "fp32"):
            flags = ["--shape", one_shape, "--precision", one, *short, "--memory-steps", 0]
            groups.append([script(f"decoder {one_shape} {one}", "decoder_step.py", 60, "time.log", *flags)])
    prompts = ["--quick"] if args.quick else ["--inputs", 16, "--batches", 1, 16, "--rounds", 4]
    for precision in ("", "-bf16"):
        methods = [f"ours{precision}", f"theirs{precision}"]
        flags = ["--methods", *methods, "--beams", 1, 5, "--max-len", 32, *prompts]
        groups.append([script(f"generation{precision}", "generation.py", 75, "time.log", *flags)])
    memory = [(file, one, []) for one in PRECISIONS for file in ("step_time", "adapters")]
    if args.quick:
        memory = [("adapters", PRECISIONS[0], ["--methods", "lora"])]
    groups.append(
        [
            script(f"memory, {file} {one}", f"{file}.py", 90, "memory.log", "--precision", one, *shape, *steps, *more)
            for file, one, more in memory
        ]
    )
    if args.glue:
        groups += glue_stages(args, scratch, environment)
    return groups


def glue_stages(args, scratch: Path, environment: Dict[str, str]) -> List[List[Stage]]:
    """Short runs of MiniLM (do they run, and how fast?), a process for each method and task, and the table of all."""
    python, log, backbone, out = sys.executable, "glue.log", scratch / "minilm", scratch / "glue"
    updates, place = 4 if args.quick else 200, ["--cpu"] if args.device == "cpu" else []
    data = ["--data", args.glue, "--backbone", backbone]
    settings = ["--set", f"optimization.max_update={updates}", "--set", f"lr_scheduler.warmup_updates={updates // 10}"]
    run = [python, "-m", "sharp_plugins.glue", "run", *data, "--out", out, "--seeds", 1, *settings, *place]

    def stage(name: str, command: Sequence, limit: float, **more) -> Stage:
        return Stage(f"glue, {name}", command, limit, log, environment, **more)

    convert = [python, "-m", "sharp_plugins.convert", args.minilm, backbone]
    prepare = [python, "-m", "sharp_plugins.glue", "prepare", *data, "--tasks", *GLUE_TASKS, "--out", out / "data"]
    table = out / "table.md"
    return [
        [stage("convert", convert, 45)],
        [stage("prepare", prepare, 45)],
        [
            stage(f"{task} {method}", [*run, "--tasks", task, "--methods", method], 150)
            for task in GLUE_TASKS
            for method in GLUE_METHODS
        ],
        [stage("table", ["cat", table], 5, tables=lambda: re.sub("^#", "###", read(table), flags=re.M))],
    ]


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


# ---------------------------------------------------------------------- what the tests said

# A line of pytest -v with -n: [gw0] [ 12%] PASSED tests/gpu/test_x.py::test_y[z]
RESULT = re.compile(r"^\[gw\d+\] \[ *\d+%\] (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS) (\S+?)::(.*?) *$", re.M)
REASON = re.compile(r"^SKIPPED \[(\d+)\] [^:]+(?::\d+)?: (.*)$", re.M)


def tests_table(title: str, log: str) -> str:
    """How many tests of each file passed, which did not, and why some were skipped; also of a log that breaks off."""
    results = RESULT.findall(log)
    files = defaultdict(Counter)
    for outcome, file, _ in results:
        files[file][outcome] += 1
    lines = [f"### {title}", "", "| file | passed | failed | skipped |", "| --- | --- | --- | --- |"]
    for file, counts in sorted(files.items()):
        lines.append(f"| {file} | {counts['PASSED']} | {counts['FAILED'] + counts['ERROR']} | {counts['SKIPPED']} |")
    lines.append("")
    lines += [f"* {outcome}: `{file}::{test}`" for outcome, file, test in results if outcome in ("FAILED", "ERROR", "XPASS")]
    skipped = Counter()
    for count, reason in REASON.findall(log):
        skipped[reason] += int(count)
    lines += [f"* skipped {count}: {reason}" for reason, count in skipped.items()]
    return "\n".join(lines)


def main(given=None) -> int:
    args = arguments(given)
    os.chdir(ROOT)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    scratch = Path(tempfile.mkdtemp(prefix="sharp-gpu-"))
    try:
        runner = Runner(args.out, args.minutes * 60, "What was run on a GPU" if args.device == "cuda" else "A dry run")
        if args.resume:  # nothing is kept before this is done: the file may be the one that is written
            unpack(args.resume, scratch)
        groups = plan(args, scratch)
        names = [stage.name for group in groups for stage in group]
        for start in args.only or ():
            if not any(name.startswith(start) for name in names):
                sys.exit(f"error: --only {start}: no stage's name begins so; there are {', '.join(names)}")
        try:
            for group in groups:
                # A CPU, and a busy one at that, takes its time.
                slower = 1 if args.device == "cuda" else 10
                group = [stage._replace(limit=slower * stage.limit, spare=slower * stage.spare) for stage in group]
                chosen = [stage for stage in group if not args.only or stage.name.startswith(("set-up", *args.only))]
                if chosen:
                    runner.run(chosen)
        finally:
            signal.signal(signal.SIGTERM, lambda *_: None)  # what is left is short, and a second signal must not end it
            runner.run(closing_stages(args, scratch, runner.outcomes), is_closing=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(f"{args.out / 'summary.md'}: {len(runner.outcomes)} stages, not done: {', '.join(runner.failed) or 'none'}")
    return 1 if runner.failed else 0


if __name__ == "__main__":
    sys.exit(main())
