"""What a table of measurements needs besides its numbers: where and when, and Markdown."""

import datetime
import logging
import os
import platform
import shlex
import statistics
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from typing import Iterable, List, Sequence

import torch


def processor() -> str:
    """The CPU's name, as the system gives it."""
    try:
        for line in open("/proc/cpuinfo"):
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def circumstances(device: str = "cpu") -> str:
    """One line: date, hardware, versions."""
    threads = torch.get_num_threads()
    hardware = f"{threads} thread{'s' * (threads > 1)} of {processor()}"
    if device != "cpu":
        hardware = torch.cuda.get_device_name()
    found = [f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    for name in ("fairseq", "ve-fairseq", "fairseq-fixed"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            pass
    return f"{datetime.date.today()}, {hardware}, {', '.join(found)}"


def details(device: str) -> str:
    """A table of what `circumstances` has no room for: the GPU's driver and memory, versions that matter to fairseq."""
    rows = [("processor", f"{processor()}, {os.cpu_count()} cores")]
    if device != "cpu":
        found = torch.cuda.get_device_properties(0)
        rows.append(("GPU", f"{found.name}, {found.total_memory / 2**30:.0f} GiB, {found.multi_processor_count} multiprocessors"))
        rows.append(("CUDA, cuDNN", f"{torch.version.cuda}, {torch.backends.cudnn.version()}"))
    for name in ("numpy", "hydra-core", "omegaconf", "transformers", "peft", "safetensors", "pytest"):
        try:
            rows.append((name, version(name)))
        except PackageNotFoundError:
            rows.append((name, "not installed"))
    return table(("what", "which"), rows)


def command() -> str:
    """The command line of this process, from the script's name on; without the place that its output goes to."""
    parts = list(sys.argv)
    if "--out" in parts:
        del parts[parts.index("--out") : parts.index("--out") + 2]
    return "python " + " ".join(shlex.quote(part) for part in parts)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines: List[Sequence[str]] = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def quartiles(values: List[float]) -> str:
    """Median (lower quartile - upper quartile)."""
    if len(values) < 2:
        return f"{values[0]:.3f}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.3f} ({low:.3f}-{high:.3f})"


def report(title: str, text: str, device: str = "cpu", out: str = "") -> None:
    """Print a section, and append it to the file *out* where one is given."""
    section = f"### {title}\n\n{circumstances(device)}  \n`{command()}`\n\n{text}\n"
    print(section, flush=True)
    if out:
        with open(out, "a") as file:
            file.write(section + "\n")


def quiet() -> None:
    """Keep fairseq's log lines and its dependencies' warnings out of the way; call it before importing fairseq."""
    warnings.filterwarnings("ignore")
    logging.basicConfig(level=logging.ERROR)
    logging.disable(logging.WARNING)


if __name__ == "__main__":
    report("Machine", details(sys.argv[1]), *sys.argv[1:])
