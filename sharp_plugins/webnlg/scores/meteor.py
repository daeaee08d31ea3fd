"""METEOR 1.5 (Denkowski and Lavie 2014), by its own program, where a user has it: ``meteor-1.5.jar``.

The challenge's call is ``java -Xmx2G -jar meteor-1.5.jar OUTPUTS REFERENCES -l en -norm -r 3`` on its prepared texts, LoRA's the
same with ``-r 6``. REFERENCES holds so many lines for each output. Where an input has fewer references the challenge leaves lines
empty, and LoRA repeats the first reference.
"""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Dict, Optional, Sequence

from sharp_plugins.webnlg.corpus import Entry
from sharp_plugins.webnlg.scores.groups import groups_of
from sharp_plugins.webnlg.scores.system import System

FINAL = re.compile(r"^Final score:\s+([0-9.eE+-]+)\s*$", re.M)


class MeteorError(ValueError):
    """METEOR cannot be run; the message says why."""


def find_java(jar: Path, paraphrases: Optional[Path]) -> str:
    """The path of java.

    Raises:
        MeteorError: a file or java is not there.
    """
    for flag, path in (("--meteor-jar", jar), ("--meteor-paraphrases", paraphrases)):
        if path is not None and not path.is_file():
            raise MeteorError(f"{flag} {path}: no such file")
    java = shutil.which("java")
    if java is None:
        raise MeteorError("--meteor-jar: java is not installed, or not in PATH")
    return java


def meteor_scores(
    systems: Dict[str, System], entries: Sequence[Entry], jar: Path, paraphrases: Optional[Path] = None
) -> Dict[str, Dict[str, float]]:
    """METEOR of all, seen and unseen inputs in each way, in percent. METEOR's own numbers are a hundredth of it.

    Args:
        jar: ``meteor-1.5.jar``.
        paraphrases: its table; None: the one that it finds beside itself.

    Raises:
        MeteorError: it cannot be run, or prints no score.

    Example::

        meteor_scores(systems(texts, entries), entries, Path("meteor-1.5/meteor-1.5.jar"))["challenge2017"]["all"]
    """
    java = find_java(jar, paraphrases)
    options = [] if paraphrases is None else ["-a", str(paraphrases.resolve())]
    return {
        way: {
            group: 100 * _run([java, "-Xmx2G", "-jar", str(jar.resolve())], options, system, rows) for group, rows in groups.items()
        }
        for groups in [groups_of(entries)]
        for way, system in systems.items()
    }


def _run(program: Sequence[str], options: Sequence[str], system: System, rows: Sequence[int]) -> float:
    references = [system.way.references("meteor", system.given[row], None) for row in rows]
    width = system.way.most or max(map(len, references))
    if system.way.name == "lora":
        references = [one + one[:1] * (width - len(one)) for one in references]
    lines = [text for one in references for text in one + [""] * (width - len(one))]
    with tempfile.TemporaryDirectory() as place:
        names = ("outputs", "references")
        for name, texts in zip(names, ([system.hypotheses[row] for row in rows], lines)):
            # A text's own line ends, of any kind, would end a line there.
            text = "".join(" ".join(text.split()) + "\n" for text in texts)
            (Path(place) / name).write_text(text, encoding="utf-8", newline="\n")
        command = [*program, *names, "-l", "en", "-norm", "-r", str(width), *options]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, encoding="utf-8", errors="replace")
    scores = FINAL.findall(done.stdout)
    if done.returncode or len(scores) != 1:
        words = (done.stderr.strip() or done.stdout.strip() or "it printed nothing").splitlines()[-1]
        raise MeteorError(f"--meteor-jar: java ended with {done.returncode} and without a score: {words}")
    return float(scores[0])
