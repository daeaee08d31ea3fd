"""The command ``python -m sharp_plugins.runs sharpness``: how flat the loss is around a checkpoint."""

import argparse
import os
import sys
from pathlib import Path

from sharp_plugins.command_line import output_file, run_command
from sharp_plugins.sharpness.choices import Choices

PROGRAM = "python -m sharp_plugins.runs"


def run_sharpness(args) -> None:
    from sharp_plugins.sharpness import report  # here, so that --help imports no fairseq
    from sharp_plugins.sharpness.landscape import Landscape
    from sharp_plugins.sharpness.second_derivatives import ran_out_of_memory

    choices = Choices(args.radii, args.shares, args.draws, args.hessian_steps, args.seed)
    choices.check()
    for flag, path in (("--json", args.json), ("--plot", args.plot)):
        if path and path.exists() and args.checkpoint.exists() and path.samefile(args.checkpoint):
            raise ValueError(f"{flag} {path}: choose another name to write to; this is the checkpoint")
    if args.json and args.plot and os.path.realpath(args.json) == os.path.realpath(args.plot):
        raise ValueError(f"--plot {args.plot}: choose another name to write to; --json writes this file")
    if args.plot:
        import matplotlib  # noqa: F401  # before anything is measured

        if args.plot.suffix not in (".png", ".pdf", ".svg"):
            raise ValueError(f"--plot {args.plot}: the name should end in .png, .pdf or .svg")

    def tell(line: str) -> None:
        print(line, flush=True)

    def save(found) -> None:
        if args.json:
            report.write(found, choices, args.json)

    try:
        land = Landscape(args.checkpoint, args.data, args.split, args.rows, args.device, args.batch_size)
        found = report.measure(land, choices, tell, save)
        if args.plot:
            found["curves"] = report.curves(land, 2 * max(args.radii), args.seed)
            save(found)
            report.draw(found["curves"], args.plot, f"{args.checkpoint.name}, {args.split}", land.unit)
            tell(f"{args.plot}: written")
    except RuntimeError as error:  # torch's, for a GPU's memory
        hint = "; a smaller --batch-size takes less" if ran_out_of_memory(error) else ""
        raise ValueError(f"{args.checkpoint}: cannot be measured: {error}{hint}") from error


def main(argv=None) -> int:
    """What can be told of a trained checkpoint, whatever benchmark it is of."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="sharpness")
    words = "Print the loss of a checkpoint's own criterion (nats; of a regression the squared error) and its accuracy: at its "
    words += "weights, up the gradient, after random perturbations and with rounded weights; a classifier's calibration error; the "
    words += "Hessian's largest eigenvalue. In fp32, without dropout, over the weights that were trained."
    command = commands.add_parser("sharpness", help="how flat the loss is around a checkpoint", description=words)
    command.set_defaults(run=run_sharpness)
    command.add_argument("checkpoint", metavar="CHECKPOINT.pt", type=Path)
    command.add_argument("--data", metavar="DIR", type=Path, help="the task's data (default: those of the training)")
    command.add_argument(
        "--split", default="valid", help="one of fairseq's; SAM minimises the rise on train (default: %(default)s)"
    )
    command.add_argument("--rows", type=int, default=0, metavar="N", help="rows of it, evenly spread (default: all)")
    command.add_argument("--batch-size", type=int, default=32, metavar="N", help="rows at a time (default: %(default)s)")
    own = Choices()
    words = f"of the ascent (default: {' '.join(map(str, own.radii))})"
    command.add_argument("--radii", type=float, nargs="+", default=list(own.radii), metavar="ρ", help=words)
    words = f"norms of random perturbations, as shares of each tensor's own norm (default: {' '.join(map(str, own.shares))})"
    command.add_argument("--shares", type=float, nargs="+", default=list(own.shares), metavar="S", help=words)
    command.add_argument(
        "--draws", type=int, default=own.draws, metavar="N", help="of each random perturbation (default: %(default)s)"
    )
    words = "products with the Hessian at most, each of them some gradients' time and memory; 0: none (default: %(default)s)"
    command.add_argument("--hessian-steps", type=int, default=own.hessian_steps, metavar="N", help=words)
    command.add_argument(
        "--seed", type=int, default=own.seed, metavar="N", help="of what is drawn; a GPU draws other numbers (default: %(default)s)"
    )
    command.add_argument("--device", help="cpu or cuda (default: cuda where there is a GPU)")
    command.add_argument("--json", metavar="FILE", type=output_file, help="write all numbers into a file too, after each part")
    words = "draw the loss along the gradient and across it, twice the largest of --radii to both sides (.png, .pdf or .svg)"
    command.add_argument("--plot", metavar="FILE", type=output_file, help=words)
    args = parser.parse_args(argv)
    return run_command(lambda: args.run(args))


if __name__ == "__main__":
    sys.exit(main())
