"""The studies: which runs they are made of, and what is searched for each method.

A cell is a task with a number of training rows and a share of wrong labels. In each cell

    1. pilot seeds search, on rows of the training set that they do not train on: the learning rate of the study's baseline, which
       all its methods then have; ρ of SAM and δ-SAM in `RHOS`, then δ-SAM's β in `BETAS` at its best ρ; BAR's α₀ in `ALPHAS`
    2. fresh seeds train each method with what was chosen, and are scored on the development set, which has chosen nothing
"""

from typing import Dict, List, NamedTuple, Tuple

RHOS = "optimizer.sam_rho=0.005,0.01,0.02,0.05,0.1"
BETAS = "optimizer.dsam_beta=1,3,10"
ALPHAS = "optimizer.bar_alpha=0.2,0.5,1"
# The settings' 1e-4 is for whole sets: in the 40 updates of 300 rows it may learn next to nothing.
FULL_RATES = "optimization.lr=1e-4,3e-4,6e-4"
LORA_RATES = "optimization.lr=2e-4,5e-4,1e-3,2e-3"
# A method -> its searches, one after the other.
SEARCHES: Dict[str, Tuple[str, ...]] = {
    "base": (FULL_RATES,),
    "sam": (RHOS,),
    "dsam": (RHOS, BETAS),
    "lora": (LORA_RATES,),
    "lora-sam": (RHOS,),
    "lora-obar": (ALPHAS,),
    "lora-nbar": (ALPHAS,),
}
PILOT_SEEDS = (101, 102)
SEEDS = tuple(range(1, 9))
SELECTION_ROWS = 500
EPOCHS = 4
BATCH = {"SST-2": 32, "MRPC": 16, "CoLA": 16, "MNLI": 32}  # of the settings for MiniLM


class Cell(NamedTuple):
    """Where methods are compared.

    Attributes:
        rows: of the training set.
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
        return f"{self.task}-{self.rows}{noise}" + ("-noisy-selection" if self.noisy_selection else "")

    @property
    def flags(self) -> List[str]:
        """Of ``python -m sharp_plugins.glue run``."""
        updates = EPOCHS * -(-self.rows // BATCH[self.task])
        flags = ["--tasks", self.task, "--train-rows", str(self.rows), "--selection-rows", str(SELECTION_ROWS)]
        flags += ["--label-noise", f"{self.noise:g}"] if self.noise else []
        flags += ["--selection-noise"] if self.noisy_selection else []
        warmup = max(1, round(0.06 * updates))  # the settings' share
        return [*flags, "--set", f"optimization.max_update={updates}", "--set", f"lr_scheduler.warmup_updates={warmup}"]


class Study(NamedTuple):
    """Cells, and what is compared in them.

    Attributes:
        methods: the first is the baseline, whose learning rate the others have.
        keeps_checkpoints: of the fresh runs, which are measured on other data, too.
    """

    title: str
    cells: Tuple[Cell, ...]
    methods: Tuple[str, ...]
    keeps_checkpoints: bool = False

    def searched(self, method: str) -> Tuple[str, ...]:
        """All searches that a method's settings are from, the baseline's first.

        >>> [search.split("=")[0] for search in STUDIES["few"].searched("sam")]
        ['optimization.lr', 'optimizer.sam_rho']
        """
        return tuple(dict.fromkeys([*SEARCHES[self.methods[0]], *SEARCHES[method]]))


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
    ),
    "noise": Study(
        "Wrong labels",
        tuple(Cell(task, 1000, noise, noisy) for task in ("SST-2", "MRPC") for noise in (0.2, 0.4) for noisy in (False, True)),
        ("base", "sam", "dsam"),
    ),
    "elsewhere": Study("Other data", (Cell("MNLI", 1000),), ("base", "sam", "dsam"), keeps_checkpoints=True),
}
