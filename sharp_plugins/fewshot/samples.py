"""Samples of a task's data: the published ones where they are, and else drawn as those were (`sharp_plugins.fewshot.sampling`)."""

import re
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence

from sharp_plugins.fewshot.reader import Row, find_file, read
from sharp_plugins.fewshot.sampling import TEST_SEED, first_of_all, held_out, k_per_class
from sharp_plugins.fewshot.task import CLOZE, Task
from sharp_plugins.files.writing import sha256

# A directory of published samples has directories of such names, K-SEED.
PUBLISHED = re.compile(r"[0-9]+-[0-9]+")
TRAIN, VALID, TEST = ("train",), ("dev", "dev_matched", "valid"), ("test", "test_matched")


class Sample(NamedTuple):
    """Rows by split, with the files that they are from.

    Attributes:
        warnings: what a user should know of them before training.
        remarks: what a reader of the results should know, too: where they are not the published ones.
    """

    rows: Dict[str, List[Row]]
    files: Dict[str, Path]
    warnings: List[str]
    remarks: List[str]


class Sampler:
    """Draws samples of a task's data.

    Args:
        places: the directories of ``--data``.

    Example::

        Sampler(find_task("RTE", "cloze"), [Path("GLUE")]).training(size=16, seed=13).rows["train"]
    """

    def __init__(self, task: Task, places: Sequence[Path]):
        self.task, self.places = task, [Path(place) for place in places]
        self._read: Dict[Path, List[Row]] = {}
        self._checksums: Dict[Path, str] = {}

    # ------------------------------------------------------------------ what a run trains on, and what it is tested on

    def training(self, size: int, seed: int) -> Sample:
        """The training and the development set.

        Args:
            size: rows of a class (of the kind cloze), or of all (of the kind decoder).

        Raises:
            FileNotFoundError: there is neither a published sample nor the whole training file.
            ValueError: a file cannot be read, or a class of the task has no row to train on.
        """
        task, files = self.task, self.training_files(size, seed)
        if files["train"] != files["valid"]:
            rows = {split: self._rows(path) for split, path in files.items()}
        else:
            every = self._rows(files["train"])
            if task.kind == CLOZE:
                split = k_per_class([str(row.label) for row in every], size, seed)
            else:
                split = first_of_all(len(every), size, task.rows["valid"], seed)
            rows = {"train": [every[n] for n in split.train], "valid": [every[n] for n in split.valid]}
        return Sample(rows, files, self._look_at(rows, files, size), self._training_remarks(files))

    def training_files(self, size: int, seed: int) -> Dict[str, Path]:
        """The files of a published sample, or the whole training file for both sets.

        Raises:
            FileNotFoundError: there is neither.
        """
        return self._published(size, seed) or dict.fromkeys(("train", "valid"), self.file("train"))

    def test(self, seed: int) -> Sample:
        """The test set: the published one, or the whole file, or the first rows of the shuffled ones.

        Args:
            seed: of a decoder's sample; that of a masked language model is the same for all seeds.
        """
        path = self.test_file()
        rows = every = self._rows(path)
        if path != self._published_test():
            by = TEST_SEED if self.task.kind == CLOZE else seed
            rows = [every[number] for number in held_out(len(every), self.task.rows["test"], by)]
        warnings = [f"{self.task.name}: the test set has no row of {label}" for label in self._without(rows)]
        remarks = [*self._stands_in(path, "test"), *self._part(path, len(rows), len(every))]
        return Sample({"test": rows}, {"test": path}, warnings, remarks)

    def test_file(self) -> Path:
        """The published test set, or the file that it is drawn from.

        Raises:
            FileNotFoundError: there is neither.
        """
        return self._published_test() or self.file("test")

    def is_sampled(self) -> bool:
        """Whether the test set depends on the seed."""
        if self.task.kind == CLOZE or self._published_test():
            return False
        return len(self._rows(self.file("test"))) > self.task.rows["test"]

    # ------------------------------------------------------------------ files

    def file(self, use: str) -> Path:
        """The file that the "train" or the "test" set is drawn from.

        Raises:
            FileNotFoundError: there is none.
        """
        names = self.task.files.get(use, ())
        path = find_file(self.places, names)
        if path is None:
            directories = ", ".join(map(str, self.places))
            if not names:
                raise FileNotFoundError(f"{self.task.name}: the task's files name none to {use} on, under {use}")
            endings = "tsv, .csv or .jsonl" if self.task.form == "rows" else "json or .jsonl"
            wanted = " or ".join(f"{name}.{endings}" for name in names)
            raise FileNotFoundError(f"--data {directories}: no {use} file of {self.task.name}: {wanted}, or .gz{self._others(use)}")
        return path

    def checksums(self, size: Optional[int], seed: int) -> Dict[str, List[str]]:
        """Name and checksum of the files that a sample is drawn from, by split.

        Args:
            size: see `training`; None for the test set alone.

        Raises:
            OSError: one is not there or cannot be read.
            ValueError: the test set's file is one that is trained on or that chooses the checkpoint, or a copy of it.
        """
        files, test = {} if size is None else self.training_files(size, seed), self.test_file()
        found = {split: [path.name, self._checksum(path)] for split, path in {**files, "test": test}.items()}
        for split in files:
            if found[split][1] == found["test"][1]:
                use = "train" if split == "train" else "choose the checkpoint"
                raise ValueError(f"{test}: {self.task.name}: the same file to {use} and to test on; name another under files: test")
        return found

    def _checksum(self, path: Path) -> str:
        if path not in self._checksums:
            self._checksums[path] = sha256(path)
        return self._checksums[path]

    def _published_places(self) -> List[Path]:
        """Directories with published samples in directories K-SEED."""
        found = [place / name for name in self.task.files.get("published", ()) for place in self.places]
        return [path for path in found if path.is_dir() and any(PUBLISHED.fullmatch(child.name) for child in path.iterdir())]

    def _others(self, use: str) -> str:
        """What an error adds where there are published samples, of other sizes and seeds."""
        there = [child.name for place in self._published_places() for child in place.iterdir() if PUBLISHED.fullmatch(child.name)]
        if use != "train" or not there:
            return ""
        return f"; there are published samples of K-SEED {', '.join(sorted(there))}: --k and --seeds choose among them"

    def _published(self, size: int, seed: int) -> Dict[str, Path]:
        """The files of a published sample; none where there is no such sample."""
        for place in self._published_places():
            directory = place / f"{size}-{seed}"
            if directory.is_dir():
                found = {split: find_file([directory], names) for split, names in (("train", TRAIN), ("valid", VALID))}
                missing = [split for split, path in found.items() if path is None]
                if missing:
                    raise FileNotFoundError(f"{directory}: no {' and no '.join(missing)} file in it, such as train.tsv and dev.tsv")
                return {split: path for split, path in found.items() if path is not None}
        return {}

    def _published_test(self) -> Optional[Path]:
        for place in self._published_places():
            inside = sorted(child for child in place.iterdir() if PUBLISHED.fullmatch(child.name))
            path = find_file([place, *inside], TEST)
            if path:
                return path
        return None

    def _rows(self, path: Path) -> List[Row]:
        if path not in self._read:
            self._read[path] = read(path, self.task)
        return self._read[path]

    # ------------------------------------------------------------------ what is odd

    def _training_remarks(self, files: Dict[str, Path]) -> List[str]:
        path = files["train"]
        if path != files["valid"]:
            return []
        drawn = f"{self.task.name}: samples are drawn from {path.name} as the published ones were, whose files are not there"
        return self._stands_in(path, "training") or ([drawn] if self.task.files.get("published") else [])

    def _stands_in(self, path: Path, use: str) -> List[str]:
        is_one = any(find_file(self.places, [name]) == path for name in self.task.stand_ins)
        return [f"{self.task.name}: {path.name} stands in for the whole {use} file; its rows are not the published ones"] * is_one

    def _part(self, path: Path, count: int, of: int) -> List[str]:
        """That not all rows are tested on; of tasks with published samples their papers tell it."""
        by = f"seed {TEST_SEED}" if self.task.kind == CLOZE else "the sample's seed"
        remark = f"{self.task.name}: tested on {count:,} of the {of:,} rows of {path.name}, drawn with {by}"
        return [remark] * (count < of and not self.task.files.get("published"))

    def _without(self, rows: Sequence[Row]) -> List[str]:
        return [self._spelled(label) for label in self.task.labels if not any(row.label == label for row in rows)]

    def _look_at(self, rows: Dict[str, List[Row]], files: Dict[str, Path], size: int) -> List[str]:
        """Warnings about a sample.

        Raises:
            ValueError: it cannot be trained on.
        """
        name, path = self.task.name, files["train"]
        for split in ("train", "valid"):
            if not rows[split]:
                if self.task.kind == CLOZE:
                    counts = ", ".join(f"{self._spelled(label)}: {count}" for label, count in self._counts(rows["train"]).items())
                    rest = f"; --k {size} trains on all there are ({counts}): choose a smaller --k" * (split == "valid")
                else:
                    rest = f" beside the {self.task.rows['valid']} rows of the development set; rows: {{valid: N}} of the task's "
                    rest += "YAML file sets their number"
                raise ValueError(f"{path}: {name}: it has no row for the {split} set{rest}")
        missing, count = self._without(rows["train"]), len(rows["train"])
        if missing and self.task.kind == CLOZE:  # k of each class are drawn: the file has none
            raise ValueError(f"{path}: {name}: no row of {' and of '.join(missing)} to train on")
        # A decoder's classes are texts, which it may choose without an example.
        if self.task.kind == CLOZE:
            odd = self._few(rows["train"], size, "rows to train on")
            few = self._few(rows["valid"], size, "rows in the development set")
        else:
            few = []
            odd = [f"it has {count} rows to train on, and --examples is {size}"] if count < size else []
            odd += [f"the {count} rows to train on, as they are drawn, have none of {label}" for label in missing]
        few += [f"the development set has no row of {label}" for label in self._without(rows["valid"])]
        return [*(f"{name}: {words} ({path})" for words in odd), *(f"{name}: {words} ({files['valid']})" for words in few)]

    def _counts(self, rows: Sequence[Row]) -> Dict[str, int]:
        return {label: sum(row.label == label for row in rows) for label in self.task.labels}

    def _few(self, rows: Sequence[Row], size: int, what: str) -> List[str]:
        """Classes with some rows, and fewer than there should be."""
        few = {label: count for label, count in self._counts(rows).items() if 0 < count < size}
        return [f"{self._spelled(label)} has {count} {what}, and --k is {size}" for label, count in few.items()]

    def _spelled(self, label: str) -> str:
        """A class, as people may know it."""
        return f"class {' or '.join(self.task.labels[label])}"
