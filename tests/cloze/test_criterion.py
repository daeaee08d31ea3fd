"""Loss, gradient and logits beside a plain loop and transformers; the methods on them; what of the head trains."""

import clozes
import plain
import pytest
import torch
import torch.nn.functional as F
import toy

from sharp_plugins.cloze.head import count
from sharp_plugins.cloze.prepared import read_prepared

WORDS = [272, 277]  # Ġterrible, Ġgreat
FP16 = "--fp16 --fp16-no-flatten-grads --fp16-init-scale 4".split()  # as it runs on a CPU
METHODS = {
    "rdrop": ["--rdrop-alpha", "2"],
    "r3f": ["--r3f-eps", "0.05", "--r3f-lambda", "2"],
    "freelb": ["--freelb-steps", "2"],
    "smart": ["--smart-eps", "0.05", "--smart-lambda", "2"],
}


def plain_logits(model, sample, embeddings=None):
    """(B, classes): one row at a time, all of its scores computed, without padding."""
    rows = []
    net_input = sample["net_input"]
    for row, (tokens, length) in enumerate(zip(net_input["src_tokens"], net_input["src_lengths"])):
        tokens = tokens[None, :length]
        features = model.encoder.sentence_encoder(tokens)["encoder_out"][0][:, 0]
        head = model.encoder.lm_head
        hidden = head.layer_norm(F.gelu(head.dense(features)))
        scores = hidden @ head.weight.T + head.bias
        rows.append(scores[tokens[0].tolist().index(342), WORDS])
    return torch.stack(rows)


def plain_losses(logits, target):
    return torch.stack([row.logsumexp(0) - row[label] for row, label in zip(logits, target.tolist())])


@pytest.fixture
def built(data):
    return clozes.parts(data, "cloze")


def test_loss_gradient_and_accuracy_equal_a_plain_loop(built):
    criterion, model, sample = built
    loss, size, log = criterion(model, sample)
    expected = plain_logits(model, sample)
    losses = plain_losses(expected, sample["target"])
    torch.testing.assert_close(loss, losses.sum(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(criterion.sentence_losses(model, sample), losses, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(criterion(model, sample, reduce=False)[0], losses, rtol=1e-5, atol=1e-5)
    assert size == log["sample_size"] == log["nsentences"] == 6 and log["ntokens"] == int(sample["net_input"]["src_lengths"].sum())
    assert log["ncorrect"] == (expected.argmax(1) == sample["target"]).sum()
    sure, right = criterion.probabilities(model, sample)  # of which `runs sharpness` computes the calibration error
    torch.testing.assert_close(sure, expected.softmax(1), rtol=1e-4, atol=1e-6)
    assert torch.equal(right, sample["target"])
    weights = [p for p in model.parameters() if p.requires_grad]
    for ours, theirs in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(losses.sum(), weights)):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_head_is_computed_at_the_masks_alone(built):
    criterion, model, sample = built
    seen = []
    model.encoder.lm_head.dense.register_forward_hook(lambda module, inputs, output: seen.append(tuple(inputs[0].shape)))
    criterion(model, sample)
    assert seen == [(6, 16)]


@pytest.mark.parametrize("kind", ["roberta", "bert"])
def test_logits_equal_transformers(kind, backbone, published_roberta, bert, published_bert, tmp_path):
    transformers = pytest.importorskip("transformers")
    from safetensors.torch import load_file

    from sharp_plugins.cloze.evaluate import Checkpoint

    directory, converted = {"roberta": (published_roberta, backbone), "bert": (published_bert, bert)}[kind]
    rows = [(["The cat sat on it"], 0), (["a"], 1), (["runs, cat-runs"], 1)]
    test = clozes.write_lines(tmp_path / "test.jsonl", rows)
    prepared = read_prepared(clozes.prepare(converted, tmp_path / "data", "sst-2", test=test))
    ours = Checkpoint(converted / "model.pt", prepared).predict("test").logits

    cls = {"roberta": transformers.RobertaForMaskedLM, "bert": transformers.BertForMaskedLM}[kind]
    model = cls(cls.config_class.from_pretrained(directory)).eval()
    missing, _ = model.load_state_dict(load_file(directory / "model.safetensors"), strict=False)
    model.tie_weights()
    assert not [name for name in missing if "decoder" not in name and "position_ids" not in name]
    tokenizer = {"roberta": transformers.RobertaTokenizerFast, "bert": transformers.BertTokenizerFast}[kind].from_pretrained(
        directory
    )
    words = [tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in ("terrible", "great")]
    assert all(len(ids) == 1 for ids in words)
    for (sentences, _), found in zip(rows, ours):
        text, was = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in (sentences[0], " It was"))
        ids = [
            tokenizer.cls_token_id,
            *text,
            *was,
            tokenizer.mask_token_id,
            tokenizer.convert_tokens_to_ids("."),
            tokenizer.sep_token_id,
        ]
        with torch.no_grad():
            scores = model(torch.tensor([ids])).logits[0, ids.index(tokenizer.mask_token_id)]
        torch.testing.assert_close(found, scores[[ids[0] for ids in words]], rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------- the methods


@pytest.mark.parametrize("method", METHODS)
def test_methods_sum_over_their_sentences(data, method):
    criterion, model, sample = clozes.parts(data, f"{method}_cloze", *METHODS[method])
    torch.manual_seed(1)
    loss, _, log = criterion(model, sample)
    torch.manual_seed(1)
    losses = criterion.sentence_losses(model, sample)
    assert losses.shape == (6,) and losses.dtype == torch.float32
    torch.testing.assert_close(losses.sum(), loss, rtol=1e-5, atol=1e-5)
    assert set(criterion.measures) - {"smart_bregman"} <= set(log)
    stock = plain_losses(plain_logits(model, sample), sample["target"]).sum()
    assert abs(loss - stock) > 1e-4
    model.eval()
    torch.testing.assert_close(criterion(model, sample)[0], stock, rtol=1e-5, atol=1e-5)


def test_rdrop_equals_its_formula(data):
    criterion, model, sample = clozes.parts(data, "rdrop_cloze", "--rdrop-alpha", "2", dropout="0.3")
    torch.manual_seed(1)
    loss, _, _ = criterion(model, sample)
    torch.manual_seed(1)
    doubled = {name: torch.cat([value, value]) for name, value in sample["net_input"].items()}
    first, second = model(**doubled)[0][:, WORDS].log_softmax(-1).chunk(2)
    rows = range(6), sample["target"].tolist()
    expected = -first[rows].sum() - second[rows].sum() + 2 * plain.symmetric_kl(first, second).sum() / 2
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "method, precision",
    [("cloze", []), ("cloze", ["--bf16"]), ("cloze", FP16), ("freelb_cloze", FP16)],
    ids=["fp32", "bf16", "fp16", "freelb-fp16"],
)
def test_dsam_trains(data, method, precision):
    """With LoRA and an untied head: the frozen weights stay, and the others move."""
    flags = ["--optimizer", "dsam", "--base-optimizer", "sgd", "--lr", "0.05", "--clip-norm", "0", *precision]
    trainer = clozes.trainer(data, *flags, model=clozes.LORA, criterion=method)
    before = toy.weights(trainer)
    for samples in (toy.batches(trainer, [4, 4]), toy.batches(trainer, [6])):
        trainer.train_step(samples)
    moved = {name for name, value in toy.weights(trainer).items() if not torch.equal(value, before[name])}
    assert {"encoder.lm_head.weight", "encoder.lm_head.dense.weight", "encoder.lm_head.bias"} <= moved
    assert any(name.endswith("lora_B") for name in moved)
    assert all(".lora_" in name or name.startswith("encoder.lm_head.") for name in moved)


# ---------------------------------------------------------------------- what of the head trains


def numbers(data, choice, model):
    """(of the head that train, all that train), and the model."""
    built = clozes.trainer(data, "--train-lm-head", choice, model=model).get_model()
    return count(built)[:2], built


TABLE, DENSE, LORA = 343 * 16, 16 * 16 + 16 + 2 * 16 + 343, 2 * 2 * 2 * (16 + 16)


@pytest.mark.parametrize(
    "choice, head, trained",
    [("untied", DENSE + TABLE, LORA + DENSE + TABLE), ("tied", DENSE + TABLE, LORA + DENSE + TABLE), ("frozen", 0, LORA)],
)
def test_beside_lora(data, choice, head, trained):
    found, model = numbers(data, choice, clozes.LORA)
    assert found == (head, trained)
    is_tied = model.encoder.lm_head.weight is model.encoder.sentence_encoder.embed_tokens.weight
    assert is_tied == (choice != "untied")
    assert model.encoder.sentence_encoder.embed_tokens.weight.requires_grad == (choice == "tied")


@pytest.mark.parametrize("choice", ["untied", "tied", "frozen"])
def test_without_lora(data, choice):
    (head, trained), model = numbers(data, choice, clozes.MODEL)
    everything = sum(p.numel() for p in model.parameters())
    assert head == (0 if choice == "frozen" else DENSE + TABLE)
    assert trained == everything - (DENSE + TABLE if choice == "frozen" else 0)
    assert model.encoder.sentence_encoder.embed_tokens.weight.requires_grad


def test_beside_what_else_lora_trains(data):
    model = clozes.trainer(data, model=[*clozes.LORA, "--lora-also-train", "layers.1.fc2"]).get_model()
    trains = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {"encoder.sentence_encoder.layers.1.fc2.weight", "encoder.lm_head.weight"} <= trains


def test_beside_adapters(data):
    """Houlsby et al. train the layer norms too, and still do."""
    adapter = ["--arch", "adapter", "--base-arch", *clozes.MODEL[1:], "--adapter-size", "2"]
    trainer = clozes.trainer(data, model=adapter)
    trainer.train_step(toy.batches(trainer, [4]))
    trains = {name for name, p in trainer.get_model().named_parameters() if p.requires_grad}
    assert {"encoder.lm_head.weight", "encoder.sentence_encoder.layers.0.final_layer_norm.weight"} <= trains
    assert "encoder.sentence_encoder.embed_tokens.weight" not in trains


def test_an_untied_head_begins_as_the_table(data, backbone):
    trainer = clozes.trainer(data, "--finetune-from-model", backbone / "model.pt", model=clozes.LORA)
    from fairseq import checkpoint_utils

    checkpoint_utils.load_checkpoint(trainer.cfg.checkpoint, trainer)
    encoder = trainer.get_model().encoder
    assert encoder.lm_head.weight is not encoder.sentence_encoder.embed_tokens.weight
    assert torch.equal(encoder.lm_head.weight, encoder.sentence_encoder.embed_tokens.weight)
