"""Training curves from the TensorBoard directories that ``fairseq-train --tensorboard-logdir`` writes.

fairseq writes three series of events into one directory: ``train_inner`` (every ``--log-interval`` updates),
``train`` (every epoch) and ``valid``. matplotlib and tensorboard are imported when they are needed.
"""

from pathlib import Path
from typing import Dict, List, Sequence, Tuple

Points = List[Tuple[int, float]]  # (update, value)
Run = Dict[str, Points]  # "valid/loss" -> points

# One panel each, where at least one run has it. Losses are in bits per token, as fairseq logs them.
PANELS = (
    ("train_inner/loss", "training loss"),
    ("valid/loss", "validation loss"),
    ("train_inner/sam_gap", "sam_gap: loss at w + ε minus loss at w"),
    ("train_inner/sam_radius", "sam_radius: length of ε"),
    ("train_inner/dsam_weight_entropy", "dsam_weight_entropy"),
    ("train_inner/dsam_weight_max", "dsam_weight_max"),
    ("train_inner/bar_alpha", "bar_alpha"),
    ("train_inner/bar_as_norms", "bar_as_norms: share of pairs decided as by norms"),
)
BALANCEDNESS = "train_inner/balancedness_"  # of a layer; each that was logged gets a panel


def read_run(directory) -> Run:
    """Read every scalar of one run; keys are ``series/tag``."""
    # tensorboard tells of TensorFlow's absence on import, hence not at the top.
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory}: no such TensorBoard directory")
    run: Run = {}
    for series in sorted(path for path in directory.iterdir() if path.is_dir()):
        # A resumed run repeats the updates after its checkpoint: keep all events here, the last of each update below.
        events = EventAccumulator(str(series), size_guidance={"scalars": 0}, purge_orphaned_data=False)
        events.Reload()
        for tag in events.Tags()["scalars"]:
            run[f"{series.name}/{tag}"] = [(event.step, event.value) for event in events.Scalars(tag)]
    if not run:
        raise FileNotFoundError(f"{directory}: no TensorBoard events in its subdirectories")
    return run


def last_of_each_update(points: Points) -> Points:
    """Sorted by update, with one point for each: the last one written."""
    return sorted(dict(points).items())


def draw(runs: Dict[str, Run], path, panels: Sequence[Tuple[str, str]] = PANELS) -> List[str]:
    """Draw the panels that any of the named runs has data for, balancedness included, and return their keys."""
    import matplotlib

    matplotlib.use("Agg")  # no display is needed
    from matplotlib import pyplot

    layers = sorted({key for run in runs.values() for key in run if key.startswith(BALANCEDNESS)})
    panels = [*panels, *((key, f"2|B|, {key[len(BALANCEDNESS) :]}") for key in layers)]
    drawn = [(key, title) for key, title in panels if any(run.get(key) for run in runs.values())]
    if not drawn:
        raise ValueError("none of the runs has anything to draw: " + ", ".join(key for key, _ in panels))
    columns = min(2, len(drawn))
    lines = -(-len(drawn) // columns)
    figure, axes = pyplot.subplots(lines, columns, figsize=(5.5 * columns, 3.6 * lines), squeeze=False)
    for axis, (key, title) in zip(axes.flat, drawn):
        for number, (name, run) in enumerate(runs.items()):
            points = last_of_each_update(run.get(key, []))
            if points:
                # The colour is the run's in every panel, also where some runs have no curve.
                updates, values = zip(*points)
                axis.plot(updates, values, label=name, color=f"C{number}", marker="." if len(points) < 20 else None)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("update")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    for axis in axes.flat[len(drawn) :]:
        axis.set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return [key for key, _ in drawn]
