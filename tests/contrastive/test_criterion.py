"""The criterion: losses of pairs, chunks, workers, R3F."""

import multiprocessing

import pairs
import pytest
import torch
import torch.nn.functional as F

from sharp_plugins.contrastive import criterion as contrastive
from sharp_plugins.contrastive.info_nce import Vectors, log_probabilities, pair_losses
from sharp_plugins.contrastive.pooling import inner_encoder, sentence_vectors
from sharp_plugins.contrastive.workers import gathered
from sharp_plugins.criterions.perturbed_embeddings import perturbed


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return pairs.write_backbone(tmp_path_factory.mktemp("pairs"))


def loss_and_gradients(trainer, sample, seed=0):
    model, criterion = trainer.get_model().train(), trainer.get_criterion().train()
    model.zero_grad()
    torch.manual_seed(seed)
    loss, count, log = criterion(model, sample)
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}, log


def test_losses_of_pairs_sum_to_the_loss(backbone):
    trainer = pairs.trainer(backbone)
    sample = pairs.sample(trainer)
    loss, _, log = loss_and_gradients(trainer, sample)
    torch.manual_seed(0)
    losses = trainer.get_criterion().sentence_losses(trainer.get_model(), sample)
    assert losses.shape == (4,) and log["sample_size"] == 4
    torch.testing.assert_close(losses.sum(), loss)


def test_the_loss_is_that_of_the_vectors(backbone):
    trainer = pairs.trainer(backbone, "--pooling", "cls", "--contrastive-temperature", "0.1")
    sample, model = pairs.sample(trainer), trainer.get_model().eval()
    tokens = sample["net_input"]["src_tokens"]
    assert len(tokens) == 8  # the texts, and then their second views
    own = F.normalize(model(tokens, features_only=True)[0][:, 0], dim=1)
    scores = (own @ own.T / 0.1).fill_diagonal_(-torch.inf)
    expected = F.cross_entropy(scores, torch.arange(8).roll(4), reduction="sum") / 2
    torch.testing.assert_close(trainer.get_criterion().eval()(model, sample)[0], expected)


@pytest.mark.parametrize("flag", [[], ["--skip-duplicates"]])
def test_a_text_that_is_twice_in_the_batch(backbone, tmp_path, flag):
    texts = [*pairs.TEXTS[-3:], pairs.TEXTS[-1]]
    (tmp_path / "twice.txt").write_text("".join(text + "\n" for text in texts))
    trainer = pairs.trainer(
        backbone, "--pooling", "cls", "--contrastive-temperature", "0.1", "--text", tmp_path / "twice.txt", *flag
    )
    sample, model = pairs.sample(trainer), trainer.get_model().eval()
    own = F.normalize(model(sample["net_input"]["src_tokens"], features_only=True)[0][:, 0], dim=1)
    scores = (own @ own.T / 0.1).fill_diagonal_(-torch.inf)
    if flag:  # the third and the fourth text are one: their four vectors are no negatives of each other
        for row, column in ((2, 3), (2, 7), (3, 6), (6, 7)):
            scores[row, column] = scores[column, row] = -torch.inf
    expected = F.cross_entropy(scores, torch.arange(8).roll(4), reduction="sum") / 2
    torch.testing.assert_close(trainer.get_criterion().eval()(model, sample)[0], expected)


@pytest.mark.parametrize("criterion", ["contrastive", "r3f_contrastive"])
@pytest.mark.parametrize("pooling", ["cls", "mean", "mean-padded"])
@pytest.mark.parametrize("parts", ["--encode-rows 3", "--length-groups 3", "--length-groups 2 --encode-rows 3", ""])
def test_encoding_by_parts_changes_neither_loss_nor_gradient(backbone, criterion, pooling, parts):
    """Dropout aside, which parts draw in another order: it is off here."""
    flags = ["--pooling", pooling, "--dropout", "0", "--attention-dropout", "0"]
    flags += ["--r3f-eps", "0.5"] if criterion == "r3f_contrastive" else []
    both = (["--length-groups", "1"], parts.split())
    whole, chunks = (pairs.trainer(backbone, *flags, *more, criterion=criterion) for more in both)
    sample = pairs.sample(whole)
    loss, gradients, _ = loss_and_gradients(whole, sample)
    by_chunks, gradients_by_chunks, _ = loss_and_gradients(chunks, sample)
    torch.testing.assert_close(by_chunks, loss)
    assert gradients.keys() == gradients_by_chunks.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradients_by_chunks[name], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "pooling, groups", [("mean", 1), ("mean", 2), ("mean", 4), ("mean", 99), ("mean-padded", 4), ("mean", None)]
)
def test_texts_of_like_length_are_encoded_together(backbone, pooling, groups):
    trainer = pairs.trainer(backbone, "--pooling", pooling, *([] if groups is None else ["--length-groups", str(groups)]))
    groups = groups or 8  # on a CPU
    sample, seen = pairs.sample(trainer), []
    tokens = sample["net_input"]["src_tokens"]
    hook = lambda module, inputs, named: seen.append(inputs[0] if inputs else named["src_tokens"])  # noqa: E731
    inner_encoder(trainer.get_model()).register_forward_pre_hook(hook, with_kwargs=True)
    loss_and_gradients(trainer, sample)
    lengths = sorted(tokens.ne(1).sum(1).tolist())
    assert len(set(lengths)) > 1
    if pooling == "mean-padded" or groups == 1:
        expected = [(8, tokens.size(1))]
    else:
        rows = -(-8 // groups)
        expected = [(rows, lengths[last]) for last in range(rows - 1, 8, rows)]
    assert [tuple(rows.shape) for rows in seen] == expected


@pytest.mark.parametrize("criterion", ["contrastive", "r3f_contrastive"])
def test_vectors_are_compared_in_fp32_under_autocast(backbone, criterion):
    """The cosines of bf16 vectors have eight bits, and τ = 0.04 makes 25 times their error of it."""
    trainer = pairs.trainer(backbone, "--r3f-eps", "0.5", criterion=criterion) if "r3f" in criterion else pairs.trainer(backbone)
    seen, whole = [], contrastive.log_probabilities
    sample, model = pairs.sample(trainer), trainer.get_model().eval()

    def record(own, every, *others):
        seen.append((own, every, whole(own, every, *others)))
        return seen[-1][-1]

    with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", dtype=torch.bfloat16):
        patch.setattr(contrastive, "log_probabilities", record)
        trainer.get_criterion().train()(model.train(), sample)
    assert len(seen) == (2 if "r3f" in criterion else 1)
    for own, every, found in seen:
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, whole(own, every, 0.04))


def test_parts_that_are_encoded_again_keep_no_activations(backbone):
    """Without a graph in the forward pass, and once more each in the backward pass."""
    trainer = pairs.trainer(backbone, "--encode-rows", "3", "--length-groups", "1")
    sample, model, seen = pairs.sample(trainer), trainer.get_model().train(), []
    inner_encoder(model).register_forward_hook(lambda *_: seen.append(len(saved)))
    saved = []

    def pack(tensor):
        saved.extend([tensor.shape] if tensor.is_floating_point() and tensor.numel() > 1 else [])
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss, _, _ = trainer.get_criterion().train()(model, sample)
    parts = len(seen)
    assert parts == 3 and seen == [0] * 3  # 8 texts by 3; of none an activation is kept
    loss.backward()
    assert len(seen) == 2 * parts


def test_a_text_may_spell_the_padding(backbone, tmp_path):
    """The loss is the same however texts are grouped: no text loses its end."""
    texts = [*pairs.TEXTS[:3], "the cat [PAD] sat on the mat", "the dog [PAD]"]
    (tmp_path / "texts.txt").write_text("".join(text + "\n" for text in texts))
    losses = []
    for groups in (1, 2, 4):
        flags = ["--text", str(tmp_path / "texts.txt"), "--length-groups", str(groups), "--span-length", "0"]
        trainer = pairs.trainer(backbone, *flags)
        sample = pairs.sample(trainer)
        assert sample["net_input"]["src_tokens"][2:4].eq(trainer.task.source_dictionary.pad()).any()
        losses.append(trainer.get_criterion().eval()(trainer.get_model().eval(), sample)[0])
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(losses[2], losses[0])


def test_chunks_see_the_same_dropout_in_both_directions(backbone):
    """The gradient of chunks with dropout is that of the loss which they gave: a step down the gradient lowers just that loss."""
    trainer = pairs.trainer(backbone, "--encode-rows", "3", "--dropout", "0.3")
    sample, model = pairs.sample(trainer), trainer.get_model()
    loss, gradients, _ = loss_and_gradients(trainer, sample)
    name = max(gradients, key=lambda name: gradients[name].norm())
    weight, direction = dict(model.named_parameters())[name], gradients[name] / gradients[name].norm()
    moved = []
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * 1e-3 * direction
        moved.append(loss_and_gradients(trainer, sample)[0])
        with torch.no_grad():
            weight -= sign * 1e-3 * direction
    assert ((moved[0] - moved[1]) / 2e-3).item() == pytest.approx(gradients[name].norm().item(), rel=0.02)


@pytest.mark.parametrize("criterion", ["contrastive", "r3f_contrastive"])
def test_a_step_of_delta_sam_is_the_same_by_parts(backbone, criterion):
    """All its passes, those for the pairs' weights too, encode by parts; dropout is off, as parts draw it in another order."""
    dsam = "--optimizer dsam --base-optimizer sgd --sam-rho 0.5 --dsam-beta 1 --dropout 0 --attention-dropout 0".split()
    after = []
    for parts in (["--length-groups", "1"], ["--length-groups", "3"], ["--encode-rows", "3"]):
        trainer = pairs.trainer(backbone, *dsam, *parts, criterion=criterion)
        before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
        trainer.train_step([pairs.sample(trainer)])
        after.append({name: p.detach() - before[name] for name, p in trainer.model.named_parameters()})
    assert max(change.abs().max() for change in after[0].values()) > 1e-3
    for other in after[1:]:
        for name, change in after[0].items():
            torch.testing.assert_close(other[name], change, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "mean-padded"])
def test_r3f_adds_the_divergence_of_the_rows(backbone, pooling):
    """To each pair's loss, which is what δ-SAM weighs. The noise is on words, also where padding counts as a word."""
    flags = ["--pooling", pooling, "--r3f-eps", "0.5", "--r3f-lambda", "2", "--dropout", "0", "--attention-dropout", "0"]
    trainer = pairs.trainer(backbone, *flags, criterion="r3f_contrastive")
    sample, model = pairs.sample(trainer), trainer.get_model()
    loss, _, log = loss_and_gradients(trainer, sample, seed=5)
    tokens = sample["net_input"]["src_tokens"]
    assert tokens.eq(1).any()
    torch.manual_seed(5)
    losses = trainer.get_criterion().sentence_losses(model, sample)
    torch.manual_seed(5)
    z = torch.empty(*tokens.shape, 16).uniform_(-0.5, 0.5) * tokens.ne(1).unsqueeze(-1)
    clean = Vectors.of(sentence_vectors(model, tokens, 1, pooling))
    with perturbed(model, z):
        noised = Vectors.of(sentence_vectors(model, tokens, 1, pooling))
    p, q = (log_probabilities(vectors, vectors, 0.04) for vectors in (clean, noised))
    kl = torch.zeros(4)
    for view in range(2):
        for j in range(4):
            finite = p[view, j].isfinite()
            a, b = p[view, j][finite], q[view, j][finite]
            kl[j] += ((a.exp() - b.exp()) * (a - b)).sum() / 2
    torch.testing.assert_close(log["symm_kl"], kl.sum().detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses, pair_losses(p) + 2 * kl, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss, losses.sum().detach(), rtol=1e-4, atol=1e-5)
    assert "symm_kl" in log and kl.sum() > 0.01


def test_without_noise_or_training_r3f_is_infonce(backbone):
    trainer, stock = pairs.trainer(backbone, criterion="r3f_contrastive"), pairs.trainer(backbone)
    sample = pairs.sample(stock)
    losses = [one.get_criterion().eval()(one.get_model().eval(), sample)[0] for one in (trainer, stock)]
    torch.testing.assert_close(*losses)
    plain = "--dropout 0 --attention-dropout 0".split()
    trainers = [
        pairs.trainer(backbone, *plain, *more, criterion=criterion)
        for criterion, more in (
            ("contrastive", []),
            ("r3f_contrastive", ["--r3f-lambda", "0", "--r3f-eps", "0.5"]),
            ("r3f_contrastive", ["--r3f-eps", "0.5"]),
        )
    ]
    stock, without, with_r3f = (loss_and_gradients(one, sample)[0] for one in trainers)  # in training mode
    assert without == stock < with_r3f


# ---------------------------------------------------------------------- workers


def _work(rank, store, vectors, queue):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    own = vectors.view(2, 2, 3, -1)[:, rank].flatten(0, 1).clone().requires_grad_()  # 3 pairs of the 6
    every = Vectors(*gathered(own, torch.distributed.group.WORLD).view(2, 2, 3, -1).transpose(0, 1).flatten(1, 2))
    loss = pair_losses(log_probabilities(Vectors.of(own), every, 0.5, start=3 * rank), 3 * rank).sum()
    loss.backward()
    queue.put((rank, loss.item(), own.grad.tolist()))
    torch.distributed.barrier()


@pytest.mark.slow
def test_two_workers_are_one_with_the_whole_batch(tmp_path):
    vectors = torch.randn(12, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    pairs_of_all = Vectors.of(vectors)
    loss = pair_losses(log_probabilities(pairs_of_all, pairs_of_all, 0.5)).sum()
    loss.backward()
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_work, args=(rank, tmp_path / "store", vectors.detach(), queue)) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    found = {rank: rest for rank, *rest in (queue.get(timeout=120) for _ in workers)}
    for worker in workers:
        worker.join(60)
    assert found[0][0] + found[1][0] == pytest.approx(loss.item(), rel=1e-5)
    for rank in (0, 1):
        expected = vectors.grad.view(2, 2, 3, -1)[:, rank].flatten(0, 1)
        torch.testing.assert_close(torch.tensor(found[rank][1]), expected, rtol=1e-3, atol=1e-5)
