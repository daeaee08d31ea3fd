"""Commands with time limits, whose results are kept as they come: what `gpu.sh` is made of. Needs Python alone.

A stage that fails or runs out of its time stops no other. What its command has written by then is kept: its output in a
log, its tables in a summary that is written anew after every stage, so that an early end loses the stage that it ends.
"""

import math
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence

DONE, LATE, ENDED, LEFT_OUT = "done", "out of time", "ended from outside", "left out: no time left"
NOT_BEGUN = "failed: could not be begun, see its log"
# Seconds that a command gets to stop, and those under which none is begun.
PATIENCE, LEAST = 3.0, 5.0
# The largest share of all the time that a stage has to leave.
MOST_SPARE = 1 / 3
# Seconds between two looks at the commands that run.
PAUSE = 0.1


def nothing() -> str:
    return ""


class Stage(NamedTuple):
    """A command.

    limit: the seconds that it may take.
    spare: the seconds that it has to leave for the stages after it.
    log: name of the file in the output directory that its output is appended to.
    environment: what is set for it beside what is set already.
    tables: returns the Markdown of what the command has found so far.
    """

    name: str
    command: Sequence[str]
    limit: float
    log: str
    environment: Dict[str, str] = {}
    tables: Callable[[], str] = nothing
    spare: float = 0.0


class Outcome(NamedTuple):
    stage: Stage
    status: str  # one of the constants above, or "failed: exit status N"
    seconds: float


class Runner:
    """Runs stages within *seconds* altogether; their logs and ``summary.md`` go to the directory *out*."""

    def __init__(self, out: Path, seconds: float, title: str):
        self.out, self.title = Path(out), title
        self.out.mkdir(parents=True, exist_ok=True)
        self.end = time.monotonic() + seconds
        self.most_spare = MOST_SPARE * seconds
        self.outcomes: List[Outcome] = []

    @property
    def failed(self) -> List[str]:
        """Names of the stages that were not done."""
        return [outcome.stage.name for outcome in self.outcomes if outcome.status != DONE]

    def run(self, stages: Sequence[Stage], is_closing: bool = False) -> None:
        """Run *stages* side by side. Closing ones run however little time is left: they tidy up, and have limits of their own."""
        start, waiting, running = time.monotonic(), [], {}
        left = math.inf if is_closing else self.end - start
        allowed = {stage.name: left - min(stage.spare, self.most_spare) for stage in stages}
        for stage in stages:
            if allowed[stage.name] < LEAST:
                self._note([Outcome(stage, LEFT_OUT, 0.0)])
            else:
                waiting.append(stage)
        try:
            for stage in waiting:
                running[stage.name] = self._begin(stage)
            while waiting:
                for stage in list(waiting):
                    status = self._status(running[stage.name], start + min(stage.limit, allowed[stage.name]))
                    if status:
                        waiting.remove(stage)
                        self._note([Outcome(stage, status, time.monotonic() - start)])
                time.sleep(PAUSE)
        except BaseException:
            self._note([Outcome(stage, ENDED, time.monotonic() - start) for stage in waiting])
            raise
        finally:
            for process in filter(None, running.values()):
                stop(process)

    def _begin(self, stage: Stage) -> Optional[subprocess.Popen]:
        """The process, or None where there is no such program."""
        with open(self.out / stage.log, "a") as log:
            log.write(f"\n=== {stage.name}: {' '.join(map(str, stage.command))}\n")
            log.flush()
            try:
                return subprocess.Popen(
                    [str(part) for part in stage.command],
                    env={**os.environ, **stage.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                log.write(f"{error}\n")
                return None

    @staticmethod
    def _status(process: Optional[subprocess.Popen], end: float) -> str:
        """How a command has ended; nothing while it runs. One that runs past *end* is stopped."""
        if process is None:
            return NOT_BEGUN
        code = process.poll()
        if code is not None:
            return DONE if code == 0 else f"failed: exit status {code}"
        if time.monotonic() < end:
            return ""
        stop(process)
        return LATE

    def _note(self, outcomes: Sequence[Outcome]) -> None:
        self.outcomes += outcomes
        for stage, status, seconds in outcomes:
            print(f"{stage.name}: {status} ({seconds:.0f} s)\n\n{stage.tables()}", flush=True)
        unfinished = self.out / "summary.md.tmp"
        unfinished.write_text(self.summary(), encoding="utf-8")
        unfinished.replace(self.out / "summary.md")

    def summary(self) -> str:
        """What became of each stage, and their tables."""
        rows = [(stage.name, status, f"{seconds:.0f}", stage.log) for stage, status, seconds in self.outcomes]
        head = [("stage", "outcome", "seconds", "log"), ("---",) * 4]
        lines = ["| " + " | ".join(row) + " |" for row in (*head, *rows)]
        tables = [text for text in (stage.tables().strip() for stage, *_ in self.outcomes) if text]
        return "\n".join([f"# {self.title}", "", *lines, "", "\n\n".join(tables), ""])


def stop(process: subprocess.Popen) -> None:
    """End a command and what it has started."""
    for number, patience in ((signal.SIGTERM, PATIENCE), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:  # all have ended
            break
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            pass
    process.wait()
