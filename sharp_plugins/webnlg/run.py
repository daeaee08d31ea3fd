"""The command ``python -m sharp_plugins.webnlg run``."""

from sharp_plugins.runs.command import add_run_arguments, execute
from sharp_plugins.runs.progress import say
from sharp_plugins.webnlg.benchmark import DataToText
from sharp_plugins.webnlg.fine_tuning import FineTuning
from sharp_plugins.webnlg.scratch import FromScratch


def add_run(commands) -> None:
    """Add the command to those of an argparse parser."""
    benchmark = DataToText()
    words = "Train and score methods, and write tables. Called again, it goes on where it stopped."
    command = commands.add_parser("run", help="train and score methods", description=words, allow_abbrev=False)
    add_run_arguments(command, benchmark)
    command.set_defaults(work=run, benchmark=benchmark, methods=None)


def run(args) -> int:
    """Do all runs, and show the table."""
    if args.methods is None:
        args.methods = list((FromScratch if args.backbone is None else FineTuning).default_methods)
    status = execute(args.benchmark, args)
    table = args.out / "results.md"
    if status == 0 and table.is_file():
        say(f"\n{table.read_text(encoding='utf-8')}")
    return status
