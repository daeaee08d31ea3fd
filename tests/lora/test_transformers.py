"""PEFT's adapters of transformers' BERT and RoBERTa on converted models: both compute the same, and back again."""

import json

import published
import pytest
import torch
from fairseq import checkpoint_utils
from processes import checkpoint
from safetensors.torch import load_file, save_file, save_model

from sharp_plugins.convert.checkpoint import convert
from sharp_plugins.convert.tokenizer import Tokenizer
from sharp_plugins.lora import freeze, lora_layers
from sharp_plugins.lora.checkpoint import load_adapter, save_adapter
from sharp_plugins.lora.config import lora_settings
from sharp_plugins.lora.peft import CONFIG, WEIGHTS, from_peft, read_adapter

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
        torch.manual_seed(5)
        with torch.no_grad():
            for p in model.parameters():
                if p.requires_grad:
                    p.add_(0.3 * torch.randn_like(p))
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
        "bert", "AutoModelForSequenceClassification", dict(target_modules="all-linear", task_type="SEQ_CLS", bias="all"),
    ),
    "bert, classes without a task": (
        "bert", "AutoModelForSequenceClassification",
        dict(target_modules=["query"], modules_to_save=["classifier", "pooler"], bias="lora_only"),
    ),
    "bert, one layer": ("bert", "AutoModel", dict(target_modules=QV, layers_to_transform=[1], modules_to_save=["0.output"])),
    "roberta": ("roberta", "AutoModel", dict(target_modules=QV, use_rslora=True, r=3)),
    "roberta, masked words": ("roberta", "AutoModelForMaskedLM", dict(target_modules=["dense"], lora_dropout=0.1)),
    "roberta, classes": ("roberta", "AutoModelForSequenceClassification", dict(target_modules=QVD, task_type="SEQ_CLS")),
    "roberta, an expression": (
        "roberta", "AutoModelForSequenceClassification",
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
    assert len(lora_layers(model)) == len([k for k in load_file(tmp_path / "adapter" / WEIGHTS) if "lora_A" in k and "pooler" not in k])
    freeze(model, lora_settings(checkpoint(tmp_path / "again.pt")["cfg"])[1])  # names what there is
