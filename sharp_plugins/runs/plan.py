"""All runs that are asked for, with their data made and their settings checked, before any training starts."""

from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import sharp_plugins
from sharp_plugins.runs.benchmark import Benchmark
from sharp_plugins.runs.configs import Settings, check_parts, configure, differences
from sharp_plugins.runs.methods import Method, find_method
from sharp_plugins.runs.needs import check_start, known, own_axes
from sharp_plugins.runs.record import Record, Value
from sharp_plugins.runs.settings_check import check_checkpoints, check_config, check_values, has_criterion
from sharp_plugins.runs.stages import check_stages
from sharp_plugins.runs.store import Run, check, check_made_of, directory_of, key, name_of, stored
from sharp_plugins.runs.sweep import changes_of, check_selection, grid, read_sweeps


class Planner:
    """Makes runs of records.

    Args:
        args: the command line's, see `sharp_plugins.runs.command`; `Benchmark.begin` has seen them.
    """

    def __init__(self, benchmark: Benchmark, args):
        self.benchmark, self.args = benchmark, args
        self.there = {key(record): (directory, record) for directory, record in stored(args.out, benchmark.name)}
        self.settings: Dict[str, Settings] = {}
        self.made_of: Dict[str, Dict] = {}
        self.sweeps: Mapping[str, Sequence[Value]] = {}
        self._uses: Dict[Tuple[str, str, str], bool] = {}

    def run(self, record: Record) -> Run:
        """The run of a record, in the directory where it is, or will be."""
        return self._with_made_of(self.sketch(record))

    def _with_made_of(self, run: Run) -> Run:
        made_of = {**self.made_of[run.record.task], **self.benchmark.made_of_run(run.record)}
        return run._replace(made_of=made_of, needs=None if run.needs is None else self._with_made_of(run.needs))

    def sketch(self, record: Record) -> Run:
        """The run of a record without what it is made of: its data need not be there."""
        need = self.need_of(record)
        directory = self.there.get(key(record), (directory_of(self.args.out, record), record))[0]
        method = find_method(record.method, self.benchmark.extra_methods)
        run = Run(record, method, Path(directory), {}, {}, None if need is None else self.sketch(need))
        return run._replace(config=self.config(run))

    def need_of(self, record: Record) -> Optional[Record]:
        """The run that a run needs: of the swept settings in `Benchmark.needs`' answer it has those that its method has use for."""
        need = self.benchmark.needs(record)
        if need is None:
            return None
        return need._replace(axes={k: v for k, v in need.axes.items() if "." not in k or self._has_use(need, k)})

    def _has_use(self, record: Record, name: str) -> bool:
        """Whether the record's method is trained with each value of the swept setting *name*, as `grid` decides."""
        about = record.task, record.method, name
        if about not in self._uses:
            earlier = [other.axes[name] for _, other in self.there.values() if name in other.axes]
            values = list(dict.fromkeys([record.axes[name], *self.sweeps.get(name, ()), *earlier]))
            plain = self.sketch(record._replace(axes=own_axes(record)))

            def config_of(swept):
                return self.config(plain, swept)

            if len(values) > 1:
                self._uses[about] = name in grid({name: values}, config_of)[0]
            else:
                self._uses[about] = bool(differences(plain.config, config_of({name: values[0]})))
        return self._uses[about]

    def config(self, run: Run, swept: Mapping[str, Value] = {}) -> Dict:
        """A run's config; *swept* are further axes of it, of which the benchmark is to know, too."""
        run = run._replace(record=run.record._replace(axes={**run.record.axes, **swept}))

        def adapt(config):
            self.benchmark.adapt(config, run)

        of, name = self.settings[run.record.task], f"{run.record.task} {run.method.name}"
        changes = [*self.args.changes, *changes_of(run.record.axes)]
        config = configure(of, run.method, changes, self.args.cpu, adapt, self.benchmark.own)
        config.setdefault("common", {}).update(user_dir=str(Path(sharp_plugins.__file__).resolve().parent), seed=run.record.seed)
        config.setdefault("checkpoint", {})["save_dir"] = str(run.directory.resolve())
        # fairseq's default is as many as there are GPUs: on another machine a run would go on with batches of another size.
        config.setdefault("distributed_training", {}).setdefault("distributed_world_size", 1)
        check_values(config, name, self.benchmark.settings_flag, self.benchmark.reads)
        self.benchmark.place(config, run)
        check_checkpoints(config, name, self.benchmark.measured, self.benchmark.settings_flag)
        return config

    def check_form(self, task: str, methods: Sequence[Method]) -> None:
        """Raise ValueError where a --set or --sweep is of a wrong form, or a method has no settings: before data are made."""

        def adapt(config):
            config.setdefault("model", {}).setdefault("_name", "")  # which a backbone brings

        for settings in self.settings[task]:
            check_parts(settings or {}, task)
        swept = [changes_of({name: value}) for name, values in self.sweeps.items() for value in values]
        flag = self.benchmark.settings_flag
        for method in methods:
            name = f"{task} {method.name}"
            for more in swept or [[]]:
                changes = [*self.args.changes, *more]
                config = configure(self.settings[task], method, changes, self.args.cpu, adapt, self.benchmark.own)
                check_values(config, name, flag, self.benchmark.reads)
                check_checkpoints(config, name, self.benchmark.measured, flag, is_placed=False)

    def check_settings(self, task: str, methods: Sequence[Method], axes: Mapping[str, Value]) -> None:
        """Raise ValueError where fairseq would refuse a setting. All of a --set is in the config of one of the methods' kinds."""
        asked = [method.name for method in methods]
        kinds = [find_method(name, self.benchmark.extra_methods) for name in self.benchmark.kinds]
        for method in dict.fromkeys([*methods, *kinds]):
            # The first call with `axes` alone: a kind may have needs that its method here has not.
            record = Record(self.benchmark.name, task, method.name, self.args.seeds[0], axes)
            config = self.sketch(record).config  # of a kind that is not asked for there may be no data
            if method.name in asked or has_criterion(config):
                check_config(config, f"{task} {method.name}", method.name in asked, self.benchmark.settings_flag)


def plan(benchmark: Benchmark, args, tell: Callable[[str], None] = print) -> List[Run]:
    """All runs that are asked for.

    Args:
        tell: is given what the preparation of the data has to say.

    Raises:
        ValueError, OSError, ImportError: something does not fit or is not there; nothing was trained.
    """
    for flag, values in (("--tasks", args.tasks), ("--methods", args.methods), ("--seeds", args.seeds)):
        twice = [str(value) for value in dict.fromkeys(values) if values.count(value) > 1]
        if twice:
            raise ValueError(f"{flag}: {', '.join(twice)} given more than once")
    for seed in args.seeds:
        if not 0 <= seed < 2**32:
            raise ValueError(f"--seeds {seed}: should be from 0 to {2**32 - 1}, as NumPy takes it")
    for task in args.tasks:
        if task not in benchmark.tasks:
            raise ValueError(f"--tasks {task}: there is no such task; choose from {', '.join(benchmark.tasks)}")
    if args.sweeps:
        check_selection(benchmark, args.tasks)
    methods = [find_method(name, benchmark.extra_methods) for name in args.methods]
    sweeps = read_sweeps(args.sweeps, args.changes)
    benchmark.begin(args)
    planner = Planner(benchmark, args)
    planner.sweeps = sweeps
    planner.settings = {task: benchmark.settings(task) for task in args.tasks}
    for task in args.tasks:
        planner.check_form(task, methods)
    # Before the data are made, which would replace those of the runs that are there.
    planner.made_of = {task: benchmark.made_of(task) for task in args.tasks}
    for directory, record in planner.there.values():
        _check_record(directory, record, benchmark)
        check_made_of(directory, planner.made_of[record.task] if record.task in args.tasks else benchmark.made_of(None))
    own = benchmark.axes()
    combinations = [dict(zip(own, values)) for values in product(*own.values())]
    records = []
    for task in args.tasks:
        said = benchmark.prepare(task)
        if said:
            tell(said)
        planner.check_settings(task, methods, combinations[0])
        for record in [record for _, record in planner.there.values() if record.task == task]:
            # For this call's own axes the benchmark has an answer; where it has none, that is a defect.
            with nullcontext() if own_axes(record) in combinations else known(planner.there[key(record)][0], record):
                run = planner.run(record)
            check(run)
        for axes in combinations:
            swept = {method: _grid(planner, task, method, axes, sweeps) for method in methods}
            for seed in args.seeds:
                records += [
                    Record(benchmark.name, task, method.name, seed, {**axes, **one}) for method in methods for one in swept[method]
                ]
    runs = [planner.run(record) for record in records]
    _check_needs(runs, benchmark, args)
    for run in runs:
        if not run.is_finished:
            check_stages(benchmark.stages(run))
    benchmark.check(runs)
    return runs


def _grid(planner: Planner, task: str, method: Method, axes: Dict, sweeps: Mapping[str, Sequence[Value]]) -> List[Dict]:
    record = Record(planner.benchmark.name, task, method.name, planner.args.seeds[0], axes)
    if not sweeps:
        return [{}]
    run = planner.run(record)
    found = grid(sweeps, lambda swept: planner.config(run, swept))
    for one in found:
        check_config(planner.config(run, one), f"{task} {method.name}", flag=planner.benchmark.settings_flag)
    return found


def _check_record(directory: Path, record: Record, benchmark: Benchmark) -> None:
    if record.task not in benchmark.tasks:
        raise ValueError(f"{directory}: in a run's place, and {record.task} is no task; move it away")
    try:
        find_method(record.method, benchmark.extra_methods)
    except ValueError:
        raise ValueError(f"{directory}: in a run's place, and {record.method} is no method; move it away") from None


def _check_needs(runs: Sequence[Run], benchmark: Benchmark, args) -> None:
    """Raise ValueError where a run starts from one that is neither there nor planned, or whose checkpoints are gone."""
    planned: Dict[Tuple, Optional[Run]] = {key(run.record): run for run in runs}
    for run in runs:
        need = run.needs
        if need is None or run.is_finished:
            continue
        if not need.is_finished:
            if key(need.record) not in planned:
                before = f"put {need.record.method} before it"
                if need.record.method in args.methods:  # with other values of --sweep, which this run has no use for
                    before = "finish it first, in a call without --sweep and with --keep-checkpoints"
                raise ValueError(
                    f"--methods {run.record.method}: starts from {name_of(need.record)}, which is not finished; {before}"
                )
        else:
            check_start(run, benchmark)
