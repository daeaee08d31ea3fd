"""A tiny sentence_prediction task for the tests of criterions, and plain computations on its model.

The plain computations perturb embeddings through `TransformerEncoder`'s own argument ``token_embeddings``, and compute
losses with torch's functions: they use nothing of the plugin.
"""

import random
from pathlib import Path

import plain
import torch
import toy
from fairseq import options
from fairseq_cli import preprocess

HEAD = "sentence_classification_head"
CLASSES, DIMENSION = 3, 16
MODEL = (
    "--arch roberta --encoder-layers 1 --encoder-embed-dim 16 --encoder-ffn-embed-dim 32 --encoder-attention-heads 2 "
    "--init-token 0 --max-positions 32"
).split()


def _preprocess(prefixes, directory: Path) -> None:
    parser = options.get_preprocessing_parser()
    preprocess.main(parser.parse_args(["--only-source", *prefixes, "--destdir", str(directory)]))


def write_data(directory: Path) -> Path:
    """Sentences of 2 to 7 words with one of three labels, and with a number: ``classes`` and ``numbers``."""
    rng = random.Random(0)
    words = [f"w{i}" for i in range(20)]
    prefixes = {"input0": [], "label": []}
    for split, count in (("train", 48), ("valid", 8)):
        sentences = [[rng.choice(words) for _ in range(rng.randint(2, 7))] for _ in range(count)]
        labels = [str(sum(int(word[1:]) for word in sentence) % CLASSES) for sentence in sentences]
        for kind, lines in (("input0", [" ".join(s) for s in sentences]), ("label", labels)):
            path = directory / f"{split}.{kind}"
            path.write_text("".join(line + "\n" for line in lines))
            prefixes[kind] += [f"--{split}pref", str(path)]
        numbers = directory / "numbers" / "label"
        numbers.mkdir(parents=True, exist_ok=True)
        (numbers / f"{split}.label").write_text("".join(f"{len(s) / 7:.3f}\n" for s in sentences))
    for kind in prefixes:
        _preprocess(prefixes[kind], directory / "classes" / kind)
    _preprocess(prefixes["input0"], directory / "numbers" / "input0")
    return directory


def trainer(data: Path, criterion: str, *flags, regression=False, dropout="0"):
    """A trainer on the task, as fairseq makes it."""
    flags = list(flags) if "--optimizer" in flags else ["--optimizer", "sgd", "--lr", "0.1", *flags]
    kind = ["--num-classes", "1", "--regression-target"] if regression else ["--num-classes", str(CLASSES)]
    return toy.build_trainer(
        data / ("numbers" if regression else "classes"),
        *flags,
        "--clip-norm",
        "0",
        "--dropout",
        dropout,
        "--attention-dropout",
        dropout,
        model=[*MODEL, *kind],
        criterion=["--criterion", criterion],
        task="sentence_prediction",
    )


def parts(data: Path, criterion: str, *flags, sentences=6, **settings):
    """The criterion, the model in training mode and one sample."""
    built = trainer(data, criterion, *flags, **settings)
    (sample,) = toy.batches(built, [sentences])
    return built.get_criterion(), built.get_model().train(), sample


# ---------------------------------------------------------------------- plain computations


# The model's logits with a *delta* added to the embeddings.
logits_at = plain.Classifier(HEAD).logits


def plain_losses(logits, sample, regression=False):
    """(B,) losses, one by one."""
    target = sample["target"].view(-1)
    if regression:
        return torch.stack([(logits[i, 0] - target[i]) ** 2 for i in range(len(target))])
    return torch.stack([-torch.log(torch.softmax(logits[i], 0)[target[i]]) for i in range(len(target))])


def gradients(loss, model):
    """The gradient for each parameter that has one."""
    named = dict(model.named_parameters())
    grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True, retain_graph=True)
    return {name: grad for name, grad in zip(named, grads) if grad is not None}


def assert_same_loss_and_gradient(criterion, model, sample, expected, seed=0, rtol=1e-4, atol=1e-6):
    """`forward` and the sentences' losses, run after seeding, agree with *expected* (B,), and so do their gradients.

    Returns:
        the logging output.
    """
    torch.manual_seed(seed)
    loss, _, logging_output = criterion(model, sample)
    torch.testing.assert_close(loss, expected.sum(), rtol=rtol, atol=atol)
    torch.testing.assert_close(logging_output["loss"], loss.detach())
    wanted = gradients(expected.sum(), model)
    assert_close_gradients(gradients(loss, model), wanted, rtol, atol)
    torch.manual_seed(seed)
    losses = criterion.sentence_losses(model, sample)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, expected.to(losses.dtype), rtol=rtol, atol=atol)
    assert_close_gradients(gradients(losses.sum(), model), wanted, rtol, atol)
    return logging_output


def assert_close_gradients(ours, theirs, rtol=1e-4, atol=1e-6):
    assert ours.keys() == theirs.keys()
    for name, grad in ours.items():
        torch.testing.assert_close(grad, theirs[name], rtol=rtol, atol=atol, msg=name)


def assert_is_stock(data, criterion: str, stock: str, *flags, regression=False, dropout="0.3"):
    """With *flags*, the criterion's loss, gradient and metrics are the stock criterion's, bit for bit."""
    ours, model, sample = parts(data, criterion, *flags, regression=regression, dropout=dropout)
    theirs = parts(data, stock, regression=regression, dropout=dropout)[0]
    torch.manual_seed(0)
    loss, size, log = ours(model, sample)
    torch.manual_seed(0)
    stock_loss, stock_size, stock_log = theirs(model, sample)
    assert torch.equal(loss, stock_loss) and size == stock_size
    assert {key: log[key] for key in stock_log} == stock_log
    grads, stock_grads = gradients(loss, model), gradients(stock_loss, model)
    assert grads.keys() == stock_grads.keys() and all(torch.equal(grads[n], stock_grads[n]) for n in grads)
