"""PEFT's adapters of transformers' BERT and RoBERTa on converted models: both compute the same, and back again."""

import re

import published
import pytest
import torch
from fairseq import checkpoint_utils
from parameters import as_after_training
from processes import checkpoint
from safetensors.torch import load_file

from sharp_plugins.convert.conversion import convert
from sharp_plugins.lora.commands import load_adapter, save_adapter
from sharp_plugins.lora.config import lora_settings
from sharp_plugins.lora.peft import WEIGHTS, from_peft, read_adapter
from sharp_plugins.networks import lora_layers, mark_only_lora_as_trainable
from sharp_plugins.text.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

HEAD = "sentence_classification_head"
QV = ["query", "value"]
QVD = ["query", "key", "value", "dense"]
CLASSES = dict(num_labels=3)


class Published:
    """A small published encoder, and what it was converted to."""

    def __init__(self, directory, kind):
        write = {"bert": published.write_bert, "roberta": published.write_roberta}[kind]
        self.directory, self.out = write(directory / "published", lm_head=True), directory / "out"
        convert(self.directory, self.out)
        self.path = self.out / "model.pt"
        self.plain = checkpoint(self.path)["model"]
        rows = Tokenizer.load(self.out).published_ids
        words = torch.randint(5, len(rows) - 1, (3, 7), generator=torch.Generator().manual_seed(1))
        words[:, 0], words[:, -1] = 0, 2
        self.ours, self.theirs = words, torch.tensor(rows)[words]

    def model(self, auto, **changes):
        torch.manual_seed(0)
        return getattr(transformers, auto).from_pretrained(str(self.directory), **changes).eval()

    def adapter(self, directory, auto, changes=None, **config):
        """An adapter as PEFT writes it, with values as after training; returns PEFT's model."""
        config = {"r": 2, "lora_alpha": 6, **config}
        model = peft.get_peft_model(self.model(auto, **(changes or {})), peft.LoraConfig(**config)).eval()
        as_after_training(model)
        model.save_pretrained(directory)
        return model

    def their_outputs(self, model):
        with torch.no_grad():
            out = model(self.theirs, attention_mask=torch.ones_like(self.theirs))
        return out.logits if hasattr(out, "logits") else out.last_hidden_state

    def load(self, directory, out):
        """The command's checkpoint as a model, with its head."""
        load_adapter(directory, self.path, out)
        (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(out)], arg_overrides={"data": str(self.out)})
        state = checkpoint(out)["model"]
        if f"classification_heads.{HEAD}.out_proj.bias" in state:
            model.register_classification_head(HEAD, num_classes=3)
            model.load_state_dict(state)
        return model.eval()

    def our_outputs(self, model, auto):
        words = auto.endswith("MaskedLM")
        head = HEAD if auto.endswith("Classification") else None
        with torch.no_grad():
            out = model(self.ours, features_only=not words, **({"classification_head_name": head} if head else {}))[0]
        return out


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return Published(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    return Published(tmp_path_factory.mktemp("roberta"), "roberta")


CASES = {
    "bert": ("bert", "AutoModel", dict(target_modules=QV)),
    "bert, masked words": ("bert", "AutoModelForMaskedLM", dict(target_modules=QVD)),
    "bert, classes": ("bert", "AutoModelForSequenceClassification", dict(target_modules=QV, task_type="SEQ_CLS")),
    "bert, classes, all layers and biases": (
        "bert",
        "AutoModelForSequenceClassification",
        dict(target_modules="all-linear", task_type="SEQ_CLS", bias="all"),
    ),
    "bert, classes without a task": (
        "bert",
        "AutoModelForSequenceClassification",
        dict(target_modules=["query"], modules_to_save=["classifier", "pooler"], bias="lora_only"),
    ),
    "bert, one layer": ("bert", "AutoModel", dict(target_modules=QV, layers_to_transform=[1], modules_to_save=["0.output"])),
    "roberta": ("roberta", "AutoModel", dict(target_modules=QV, use_rslora=True, r=3)),
    "roberta, masked words": ("roberta", "AutoModelForMaskedLM", dict(target_modules=["dense"], lora_dropout=0.1)),
    "roberta, classes": ("roberta", "AutoModelForSequenceClassification", dict(target_modules=QVD, task_type="SEQ_CLS")),
    "roberta, an expression": (
        "roberta",
        "AutoModelForSequenceClassification",
        dict(target_modules=r".*layer\.1.*(query|dense)", bias="all", task_type="SEQ_CLS"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_converted_model_with_an_adapter_computes_what_transformers_and_peft_do(tmp_path, request, case):
    kind, auto, config = CASES[case]
    both = request.getfixturevalue(kind)
    changes = CLASSES if "Classification" in auto else {}
    theirs = both.adapter(tmp_path / "adapter", auto, changes, **config)
    model = both.load(tmp_path / "adapter", tmp_path / "again.pt")
    expected = both.their_outputs(theirs)
    if auto.endswith("MaskedLM"):
        expected = expected[..., Tokenizer.load(both.out).published_ids]
        ours = both.our_outputs(model, auto)[..., : expected.size(-1)]
    else:
        ours = both.our_outputs(model, auto)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        for layer in lora_layers(model).values():
            layer.lora_B.zero_()
    assert (both.our_outputs(model, auto)[..., : expected.size(-1)] - expected).abs().max() > 1e-2  # the update matters
    assert len(lora_layers(model)) == len(
        [k for k in load_file(tmp_path / "adapter" / WEIGHTS) if "lora_A" in k and "pooler" not in k]
    )
    mark_only_lora_as_trainable(model, lora_settings(checkpoint(tmp_path / "again.pt")["cfg"])[1])  # names what there is


BACK = {
    "bert": ("bert", "AutoModel", dict(target_modules=QV)),
    "bert, masked words": ("bert", "AutoModelForMaskedLM", dict(target_modules=QVD)),
    "bert, classes": CASES["bert, classes"],
    "bert, biases": (*CASES["bert, classes"][:2], {**CASES["bert, classes"][2], "bias": "all"}),
    "roberta": CASES["roberta"],
    "roberta, classes": CASES["roberta, classes"],
    "roberta, biases": CASES["roberta, an expression"],
}


@pytest.mark.parametrize("case", BACK)
def test_saved_with_transformers_names_it_is_an_adapter_of_the_published_model(tmp_path, request, case):
    """Read by PEFT onto the published model; and read here again, it is the checkpoint that was saved."""
    kind, auto, config = BACK[case]
    both = request.getfixturevalue(kind)
    changes = CLASSES if "Classification" in auto else {}
    theirs = both.adapter(tmp_path / "adapter", auto, changes, **config)
    load_adapter(tmp_path / "adapter", both.path, tmp_path / "first.pt")
    save_adapter(tmp_path / "first.pt", tmp_path / "again", names="transformers")
    back = peft.PeftModel.from_pretrained(both.model(auto, **changes), tmp_path / "again").eval()
    torch.testing.assert_close(both.their_outputs(back), both.their_outputs(theirs), rtol=1e-5, atol=1e-5)
    plain = both.model(auto, **changes)
    assert (both.their_outputs(plain) - both.their_outputs(back)).abs().max() > 1e-2
    load_adapter(tmp_path / "again", both.path, tmp_path / "second.pt")
    first, second = (checkpoint(tmp_path / name)["model"] for name in ("first.pt", "second.pt"))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first if "pooler" not in name)


def test_a_head_of_another_name_is_saved_too(tmp_path, roberta):
    both, auto = roberta, "AutoModelForSequenceClassification"
    theirs = both.adapter(tmp_path / "adapter", auto, CLASSES, target_modules=QV, task_type="SEQ_CLS")
    load_adapter(tmp_path / "adapter", both.path, tmp_path / "again.pt")
    state = checkpoint(tmp_path / "again.pt")
    state["model"] = {key.replace(HEAD, "mine"): value for key, value in state["model"].items()}
    torch.save(state, tmp_path / "mine.pt")
    save_adapter(tmp_path / "mine.pt", tmp_path / "again", names="transformers")
    back = peft.PeftModel.from_pretrained(both.model(auto, **CLASSES), tmp_path / "again").eval()
    torch.testing.assert_close(both.their_outputs(back), both.their_outputs(theirs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "rename",
    [
        lambda key: f"module.{key}",
        lambda key: key.replace("base_model.model.", ""),
        lambda key: key.replace("base_model.model.", "base_model.model.net."),
        lambda key: key.replace("lora_A.weight", "lora_A.default.weight").replace("lora_B.weight", "lora_B.default.weight"),
    ],
)
def test_names_lose_what_stands_before_them(tmp_path, bert, rename):
    config = dict(target_modules=QV, task_type="SEQ_CLS")
    bert.adapter(tmp_path, "AutoModelForSequenceClassification", CLASSES, **config)
    adapter = read_adapter(tmp_path)
    expected, settings = from_peft(adapter, bert.plain)
    renamed = adapter._replace(tensors={rename(key): value for key, value in adapter.tensors.items()})
    state, again = from_peft(renamed, bert.plain)
    assert state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in expected)
    assert again == settings


CLASSIFIES = ("bert", "AutoModelForSequenceClassification", CLASSES)
WORDS = "word_embeddings"


@pytest.mark.parametrize(
    "base, config, removed, words",
    [
        (("bert", "AutoModelForTokenClassification", CLASSES), dict(task_type="TOKEN_CLS"), None, "classifier: .* TOKEN_CLS"),
        (
            ("bert", "AutoModelForQuestionAnswering", {}),
            dict(task_type="QUESTION_ANS"),
            None,
            "qa_outputs.*: in a converted bert there is no",
        ),
        (
            ("roberta", "AutoModel", {}),
            dict(target_modules=["dense"]),
            None,
            "pooler.dense.lora_A: in a converted roberta there is no",
        ),
        (
            ("bert", "AutoModel", {}),
            dict(modules_to_save=[WORDS]),
            None,
            "word_embeddings.weight: .* its counterpart has other rows",
        ),
        (("bert", "AutoModelForMaskedLM", {}), dict(bias="all"), None, "cls.predictions.*bias: .* its counterpart has other rows"),
        (CLASSIFIES, dict(task_type="SEQ_CLS"), "classifier.bias", "the file holds no classifier.bias, which the head needs"),
        (CLASSIFIES, dict(task_type="SEQ_CLS"), "classifier", "nothing of classifier, .* modules_to_save"),
        (
            CLASSIFIES,
            dict(task_type="SEQ_CLS"),
            "layer.1.attention.self.value",
            "no update for bert.encoder.layer.1.attention.self.value, .* target_modules",
        ),
        (
            CLASSIFIES,
            dict(bias="lora_only", task_type="SEQ_CLS"),
            "layer.0.*bias",
            "no bert.encoder.layer.0.*(query|value).bias, .* 'lora_only'",
        ),
        (CLASSIFIES, dict(bias="all", task_type="SEQ_CLS"), "embeddings.*bias", "no bert.embeddings.LayerNorm.bias, .* bias 'all'"),
    ],
)
def test_what_has_no_counterpart_or_is_missing_is_refused_by_name(tmp_path, request, base, config, removed, words):
    kind, auto, changes = base
    both = request.getfixturevalue(kind)
    both.adapter(tmp_path, auto, changes, **{"target_modules": QV, **config})
    adapter = read_adapter(tmp_path)
    kept = {key: value for key, value in adapter.tensors.items() if removed is None or not re.search(removed, key)}
    with pytest.raises(ValueError, match=words):
        from_peft(adapter._replace(tensors=kept), both.plain)


def test_another_model_is_refused(tmp_path, bert, roberta):
    roberta.adapter(tmp_path, "AutoModelForMaskedLM", target_modules=QV)
    with pytest.raises(ValueError, match="an adapter of a roberta, and the model is a converted bert"):
        from_peft(read_adapter(tmp_path), bert.plain)
    shallow = {key: value for key, value in roberta.plain.items() if "layers.1." not in key}
    with pytest.raises(ValueError, match="layer.1.attention.self.query.lora_A: in a converted roberta there is no such weight"):
        from_peft(read_adapter(tmp_path), shallow)


def test_an_update_of_nothing_without_a_counterpart_is_left_out(tmp_path, roberta):
    roberta.adapter(tmp_path, "AutoModel", target_modules=QVD)
    adapter = read_adapter(tmp_path)
    tensors = {key: value * ("pooler" not in key) for key, value in adapter.tensors.items()}
    state, _ = from_peft(adapter._replace(tensors=tensors), roberta.plain)
    assert not any("pooler" in key for key in state)


def test_what_has_no_place_in_transformers_is_not_saved(tmp_path, roberta):
    roberta.adapter(tmp_path / "adapter", "AutoModel", target_modules=QV)
    load_adapter(tmp_path / "adapter", roberta.path, tmp_path / "plain.pt")
    state = checkpoint(tmp_path / "plain.pt")
    heads = {
        f"classification_heads.{name}.{part}.{end}": torch.ones(3, 16) if end == "weight" else torch.ones(3)
        for name in "ab"
        for part in ("dense", "out_proj")
        for end in ("weight", "bias")
    }
    one = {key: value for key, value in heads.items() if ".a." in key}
    for words, weights, settings in [
        ("embed_tokens.weight was trained, and has no counterpart", {}, {"lora_also_train": "embed_tokens"}),
        ("none of its models has several heads, and this has a, b", heads, {}),
        ("the head's activation there is tanh, and here relu", one, {"pooler_activation_fn": "relu"}),
    ]:
        model = state["cfg"]["model"]
        model = {**(model if isinstance(model, dict) else vars(model)), **settings}
        torch.save({**state, "cfg": {"model": model}, "model": {**state["model"], **weights}}, tmp_path / "changed.pt")
        with pytest.raises(ValueError, match=words):
            save_adapter(tmp_path / "changed.pt", tmp_path / "again", names="transformers")
        assert not (tmp_path / "again").exists()
