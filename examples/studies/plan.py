"""The studies: which runs they are made of, and what is searched for each method.

A cell is a task with a number of training rows and a share of wrong labels. In each cell

    1. pilot seeds search, on rows of the training set that they do not train on: the learning rate of the study's baseline, which
       all its methods then have; ρ of SAM and δ-SAM in `RHOS`, then δ-SAM's β in `BETAS` at its best ρ; BAR's α₀ in `ALPHAS`;
       the weights of R-Drop's and R3F's divergence in `WEIGHTS`. What joins two methods has what was chosen for each of them.
       A baseline with as much time as δ-SAM, such as "base-longer", has a learning rate of its own, in `LONGER_RATES`
    2. fresh seeds train each method with what was chosen, and are scored on the development set, which has chosen nothing
"""

from typing import Dict, List, NamedTuple, Tuple

RHOS = "optimizer.sam_rho=0.005,0.01,0.02,0.05,0.1"
BETAS = "optimizer.dsam_beta=1,3,10"
ALPHAS = "optimizer.bar_alpha=0.2,0.5,1"
WEIGHTS = "0.1,0.5,1"  # R-Drop's authors'; R3F's have 5, too
# Learning rates. The settings' 1e-4 is for whole sets: in the 40 updates of 300 rows it may learn next to nothing. Where labels are
# wrong, less is learnt of those with a smaller one.
FULL_RATES = "optimization.lr=5e-5,1e-4,3e-4,6e-4"
WHOLE_RATES = "optimization.lr=5e-5,1e-4,2e-4"
LORA_RATES = "optimization.lr=2e-4,5e-4,1e-3,2e-3,5e-3,1e-2"
LONGER_RATES = "optimization.lr=2e-5,5e-5,1e-4"
# A method -> its searches, one after the other; a baseline's is its study's.
SEARCHES: Dict[str, Tuple[str, ...]] = {
    "sam": (RHOS,),
    "dsam": (RHOS, BETAS),
    "r3f": (f"criterion.r3f_lambda={WEIGHTS}",),
    "rdrop": (f"criterion.rdrop_alpha={WEIGHTS}",),
    "lora-sam": (RHOS,),
    "lora-obar": (ALPHAS,),
    "lora-nbar": (ALPHAS,),
    "base-longer": (LONGER_RATES,),
}
# A method that joins others -> those, which it has its settings from.
JOINS: Dict[str, Tuple[str, ...]] = {"dsam-r3f": ("dsam", "r3f")}
PILOT_SEEDS = (101, 102)
SEEDS = tuple(range(1, 9))
SELECTION_ROWS = 500
EPOCHS = 4
# After a method's name: with δ-SAM's time, whose step takes 2.3 times the baseline's. More passes are made over the same rows.
LONGER, LONGER_EPOCHS = "-longer", 9
BATCH = {"SST-2": 32, "MRPC": 16, "CoLA": 16, "MNLI": 32}  # of the settings for MiniLM


class Cell(NamedTuple):
    """Where methods are compared.

    Attributes:
        rows: of the training set; 0 for all that do not choose, with as many passes over them as the settings make over the whole.
        noise: the share of them whose label is wrong.
        noisy_selection: whether the rows that choose the epoch have wrong labels, too.
    """

    task: str
    rows: int
    noise: float = 0.0
    noisy_selection: bool = False

    @property
    def name(self) -> str:
        noise = f"-noise{self.noise:g}" if self.noise else ""
        rows = f"-{self.rows}" if self.rows else ""
        return f"{self.task}{rows}{noise}" + ("-noisy-selection" if self.noisy_selection else "")

    def flags(self, method: str) -> List[str]:
        """Of ``python -m sharp_plugins.glue run``."""
        flags = ["--tasks", self.task, "--selection-rows", str(SELECTION_ROWS)]
        flags += ["--label-noise", f"{self.noise:g}"] if self.noise else []
        flags += ["--selection-noise"] if self.noisy_selection else []
        if self.rows:
            updates = (LONGER_EPOCHS if method.endswith(LONGER) else EPOCHS) * -(-self.rows // BATCH[self.task])
            warmup = max(1, round(0.06 * updates))  # the settings' share
            flags += ["--train-rows", str(self.rows), "--set", f"optimization.max_update={updates}"]
            flags += ["--set", f"lr_scheduler.warmup_updates={warmup}"]
        return flags


class Study(NamedTuple):
    """Cells, and what is compared in them.

    Attributes:
        methods: the first is the baseline, whose learning rate the others have; one that ends in `LONGER` has its own.
        rates: the baseline's search.
        keeps_checkpoints: of the fresh runs, which are measured on other data, too.
    """

    title: str
    cells: Tuple[Cell, ...]
    methods: Tuple[str, ...]
    rates: str = FULL_RATES
    keeps_checkpoints: bool = False

    def searches(self, method: str) -> Tuple[str, ...]:
        """Of a method by itself."""
        return (self.rates,) if method == self.methods[0] else SEARCHES.get(method, ())

    def bases(self, method: str) -> Tuple[str, ...]:
        """The methods that a method has settings from, the baseline first; those that it joins come before it. One that ends in
        `LONGER` has none."""
        return () if method.endswith(LONGER) else (self.methods[0], *JOINS.get(method, ()))

    def searched(self, method: str) -> Tuple[str, ...]:
        """All searches that a method's settings are from, the baseline's first.

        >>> [search.split("=")[0] for search in STUDIES["whole"].searched("dsam-r3f")]
        ['optimization.lr', 'optimizer.sam_rho', 'optimizer.dsam_beta', 'criterion.r3f_lambda']
        """
        names = (*self.bases(method), method)
        return tuple(dict.fromkeys(search for name in names for search in self.searches(name)))


STUDIES = {
    "few": Study(
        "Few examples",
        tuple(Cell(task, rows) for rows in (300, 1000) for task in ("SST-2", "MRPC", "CoLA")),
        ("base", "sam", "dsam"),
    ),
    "few-lora": Study(
        "Few examples, LoRA",
        tuple(Cell(task, 1000) for task in ("SST-2", "MRPC", "CoLA")),
        ("lora", "lora-sam", "lora-obar", "lora-nbar"),
        LORA_RATES,
    ),
    "noise": Study(
        "Wrong labels",
        tuple(Cell(task, 1000, noise, noisy) for task in ("SST-2", "MRPC") for noise in (0.2, 0.4) for noisy in (False, True)),
        ("base", "sam", "dsam", "base-longer"),
    ),
    "whole": Study(
        "Whole tasks",
        tuple(Cell(task, 0) for task in ("RTE", "MRPC", "STS-B", "CoLA", "SST-2", "QNLI", "QQP", "MNLI")),  # small ones first
        ("base", "sam", "dsam", "r3f", "rdrop", "dsam-r3f"),
        WHOLE_RATES,
    ),
    "elsewhere": Study("Other data", (Cell("MNLI", 1000),), ("base", "sam", "dsam"), keeps_checkpoints=True),
}
