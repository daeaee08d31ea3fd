"""Every method, criterion and precision that the contract holds for. Each is one line here; see README.md beside this file."""

from typing import Callable, List, NamedTuple, Optional

import plain
import texts
import toy


class Criterion(NamedTuple):
    """One of the plugin's losses of sentence classification.

    flags: what stands behind ``--criterion``. off: flags that make it the stock criterion. losses: the plain twin.
    logs: the metrics that it adds. dropout: with which it is compared with its twin.
    rounds_when_off: whether it adds zeros then, for whose rounding in half precision it draws random numbers.
    """

    flags: str
    off: str
    losses: Callable
    logs: str
    dropout: float = 0.0
    rounds_when_off: bool = False


class Method(NamedTuple):
    """An optimizer with its settings.

    flags: what stands behind ``--optimizer``; "" for the base optimizer alone. The size of a perturbation is such that a wrong
        one shows. off: flags that take the method's strength away. twin: makes the plain twin, a new one for each run.
    logs: the metrics of an update; "*" stands for anything. lora: whether it trains LoRA layers, which are pairs; other
        models' queries and keys are declared to be pairs.
    varies: it takes no other way through the precisions than a method above it, and is tried in two of them only.
    decoder: it trains one of our decoders on lines of text; else a translation. prefix: a prefix before it, and nothing else.
    """

    flags: str
    off: str
    twin: Callable[[], plain.Base]
    logs: str
    lora: bool = False
    varies: bool = False
    decoder: bool = False
    prefix: bool = False
    criterion: Optional[Criterion] = None

    @property
    def precisions(self):
        return OF_A_VARIATION if self.varies else tuple(PRECISIONS)

    @property
    def arch(self) -> str:
        model = texts.MODELS["llama"] if self.decoder else toy.MODEL
        if self.lora:
            return f"--arch lora --base-arch {' '.join(model[1:])} --lora-rank 2 --lora-alpha 4"
        if self.prefix:
            return f"--arch prefix --base-arch {' '.join(model[1:])} --prefix-length 3 --prefix-hidden 8"
        return " ".join(model) if self.decoder else ""

    def base(self) -> "Method":
        """The base optimizer alone, on the same model with the same criterion."""
        return self._replace(flags="", off="", twin=plain.Base, logs="", varies=False)

    def switched_off(self) -> "Method":
        """With no strength."""
        return self._replace(flags=f"{self.flags} {self.off}")


SAM = "sam_gap sam_grad_norm sam_radius sam_projection sam_skipped"
DSAM = f"{SAM} dsam_r dsam_weight_max dsam_weight_entropy dsam_negative dsam_nonfinite"
BAR = "bar_alpha bar_shrinks_x bar_as_norms"


def bar(variant, pairs=plain.attention_pairs):
    return lambda: plain.BAR(2, variant, pairs)


# The update that fails is the second one: with an interval of 2 it is a plain one, between two climbs.
METHODS = {
    "sam": Method("sam --sam-rho 0.5", "--sam-rho 0", lambda: plain.SAM(0.5), SAM),
    "sam-adaptive": Method(
        "sam --sam-rho 0.5 --sam-adaptive --sam-eta 0.1",
        "--sam-rho 0",
        lambda: plain.SAM(0.5, adaptive=True, eta=0.1),
        SAM,
        varies=True,
    ),
    "sam-global": Method("sam --sam-rho 0.5 --sam-scope global", "--sam-rho 0", lambda: plain.SAM(0.5), SAM, varies=True),
    "sam-interval": Method(
        "sam --sam-rho 0.5 --sam-interval 2", "--sam-rho 0", lambda: plain.SAM(0.5, interval=2), SAM, varies=True
    ),
    "dsam": Method("dsam --sam-rho 0.5", "--sam-rho 0", lambda: plain.DSAM(0.5, 3.0), DSAM),
    "dsam-independent": Method(
        "dsam --sam-rho 0.5 --dsam-dropout independent", "--sam-rho 0", lambda: plain.DSAM(0.5, 3.0), DSAM, varies=True
    ),
    "dsam-inverse": Method(
        "dsam --sam-rho 0.5 --dsam-weights inverse",
        "--sam-rho 0",
        lambda: plain.DSAM(0.5, 3.0, plain.inverse_weights),
        DSAM.replace("dsam_r ", ""),
        varies=True,
    ),
    "bar-nbar": Method("bar --bar-alpha 2", "--bar-alpha 0", bar("nbar"), f"{BAR} balancedness_*"),
    "bar-obar": Method("bar --bar-alpha 2 --bar-variant obar", "--bar-alpha 0", bar("obar"), f"{BAR} balancedness_*", varies=True),
    "bar-lora-nbar": Method("bar --bar-alpha 2", "--bar-alpha 0", bar("nbar", plain.lora_pairs), BAR, lora=True, varies=True),
    "bar-lora-obar": Method(
        "bar --bar-alpha 2 --bar-variant obar", "--bar-alpha 0", bar("obar", plain.lora_pairs), BAR, lora=True, varies=True
    ),
    "lora-sam": Method("sam --sam-rho 0.5", "--sam-rho 0", lambda: plain.SAM(0.5), SAM, lora=True, varies=True),
    "lora-dsam": Method("dsam --sam-rho 0.5", "--sam-rho 0", lambda: plain.DSAM(0.5, 3.0), DSAM, lora=True, varies=True),
    "decoder-sam": Method("sam --sam-rho 0.5", "--sam-rho 0", lambda: plain.SAM(0.5), SAM, varies=True, decoder=True),
    "decoder-dsam": Method("dsam --sam-rho 0.5", "--sam-rho 0", lambda: plain.DSAM(0.5, 3.0), DSAM, varies=True, decoder=True),
    "prefix-sam": Method("sam --sam-rho 2", "--sam-rho 0", lambda: plain.SAM(2.0), SAM, varies=True, decoder=True, prefix=True),
    "prefix-dsam": Method(
        "dsam --sam-rho 2", "--sam-rho 0", lambda: plain.DSAM(2.0, 3.0), DSAM, varies=True, decoder=True, prefix=True
    ),
    "decoder-bar": Method(
        "bar --bar-alpha 2", "--bar-alpha 0", bar("nbar", plain.lora_pairs), BAR, lora=True, varies=True, decoder=True
    ),
}

CRITERIONS = {
    "rdrop": Criterion("rdrop_sentence_prediction --rdrop-alpha 2", "--rdrop-alpha 0", plain.RDrop(2), "rdrop_kl", dropout=0.3),
    "r3f": Criterion("r3f_sentence_prediction --r3f-eps 0.05 --r3f-lambda 2", "--r3f-lambda 0", plain.R3F(0.05, 2), "symm_kl"),
    "freelb": Criterion(
        "freelb_sentence_prediction --freelb-init 0.4 --freelb-step-size 0.3 --freelb-max-norm 0.5",
        "--freelb-steps 1 --freelb-init 0",
        plain.FreeLB(3, 0.3, 0.4, 0.5),
        "freelb_gap",
        rounds_when_off=True,
    ),
    "smart": Criterion(
        "smart_sentence_prediction --smart-eps 0.05 --smart-step-size 0.05 --smart-noise 0.01 --smart-lambda 2",
        "--smart-lambda 0",
        plain.SMART(2, 0.05, 0.01, 0.05),
        "smart_divergence",
    ),
}
STOCK = Criterion("sentence_prediction", "", None, "")

# Each criterion under these; the radius is small enough for three updates of a classifier.
UNDER = {
    "base": METHODS["sam"].base(),
    "sam": Method("sam --sam-rho 0.05", "--sam-rho 0", lambda: plain.SAM(0.05), SAM, varies=True),
    "dsam": Method("dsam --sam-rho 0.05", "--sam-rho 0", lambda: plain.DSAM(0.05, 3.0), DSAM, varies=True),
}
COMBINED = {
    f"{optimizer}-{name}": method._replace(criterion=criterion)
    for name, criterion in CRITERIONS.items()
    for optimizer, method in UNDER.items()
}

# What the flags of these names set.
PRECISIONS = {
    "fp32": {},
    "fp16": {"fp16": True},
    "fp16-not-flat": {"fp16": True, "fp16_no_flatten_grads": True},
    "bf16": {"bf16": True},
    "memory-efficient-fp16": {"fp16": True, "memory_efficient_fp16": True},
    "memory-efficient-bf16": {"bf16": True, "memory_efficient_bf16": True},
    "amp": {"amp": True},
}
ALL = " ".join(PRECISIONS)
OF_A_VARIATION = ("fp32", "fp16")


# ---------------------------------------------------------------------- promises


class Promise(NamedTuple):
    """A function of (world, method, precision) that raises AssertionError where the method does not keep the promise.

    of_methods: the precisions in which the methods are tried. of_criterions: those in which the criterions are, under SAM and
    δ-SAM, and where under_the_base under the base optimizer too.
    """

    check: Callable
    of_methods: List[str]
    of_criterions: List[str]
    under_the_base: bool

    def combinations(self):
        """(name, method, precision) of all that have to keep it."""
        for precision in self.of_methods:
            for name, method in METHODS.items():
                if precision in method.precisions:
                    yield name, method, precision
        for precision in self.of_criterions:
            for name, method in COMBINED.items():
                if precision in method.precisions and (method.flags or self.under_the_base):
                    yield name, method, precision


PROMISES = {}  # by name, in the order of their files


def promise(of_methods=ALL, of_criterions="", under_the_base=False):
    """Makes a function a promise, in the precisions whose names are given."""

    def add(check):
        PROMISES[check.__name__] = Promise(check, of_methods.split(), of_criterions.split(), under_the_base)
        return check

    return add
