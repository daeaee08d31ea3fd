"""Small checkpoints as they are published, with random weights, and data for sentence_prediction."""

import json
from pathlib import Path
from typing import Dict, List, Optional, Sequence

import torch
import torch.nn.functional as F
from fairseq import options
from fairseq.data.encoders.gpt2_bpe_utils import bytes_to_unicode
from fairseq_cli import preprocess
from torch import Tensor

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,'!?-"
# Special tokens at odd places, as in BERT's own vocabulary.
WORDPIECES = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDPIECES += [*LETTERS, *(f"##{c}" for c in LETTERS), "the", "cat", "dog", "sat", "runs", "on", "mat", "##ing"]

SENTENCES = [
    "The cat sat on the mat.",
    "Nobody expected the museum to reopen before the end of the year!",
    "A small boat crosses the lake every morning, even in winter.",
    "Why did the committee reject both proposals?",
    "She paid 1,249.50 euros for the antique clock (and regretted it).",
    "El niño comió piña; naïve café owners in Zürich smiled.",
    '\u4eca\u65e5\u306f\u826f\u3044\u5929\u6c17\u3067\u3059\u306d\u3002 It means "nice weather today".',
    "Stock prices fell sharply after the announcement on Tuesday.",
    "He's been working from home since 2019, hasn't he?",
    "Photosynthesis converts light into chemical energy.",
    "   Too   many\tspaces and a\nline break   ",
    "It was the best soup I have ever had 🍲.",
    "UNIVERSITY LIBRARIES WILL CLOSE AT 18:00",
    "Antidisestablishmentarianism is longer than it is useful.",
    "The trial showed no difference between the groups (p = 0.43).",
    "x",
    "Email me at someone@example.org or call +44 20 7946 0000.",
    "Die Straße war naß, und der Zug kam zu spät.",
    "Two of the three bridges were repaired; the third collapsed in 1987 and was never rebuilt.",
    "Is it true that 'there' and 'their' sound alike?",
]
PAIRS = list(zip(SENTENCES, SENTENCES[1:] + SENTENCES[:1]))

SIZE = dict(
    num_hidden_layers=2,
    hidden_size=16,
    intermediate_size=32,
    num_attention_heads=2,
    hidden_act="gelu",
    hidden_dropout_prob=0.1,
    attention_probs_dropout_prob=0.1,
    max_position_embeddings=256,
)


def write_wordpiece(directory: Path, words: Sequence[str] = WORDPIECES, lower: Optional[bool] = True) -> None:
    """``vocab.txt`` and ``tokenizer_config.json``."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "vocab.txt").write_text("".join(word + "\n" for word in words), encoding="utf-8")
    config = {} if lower is None else {"do_lower_case": lower}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


def byte_level_vocabulary() -> Dict[str, int]:
    """RoBERTa's special tokens, the 256 bytes, some merges of two, and the mask at the end."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *bytes_to_unicode().values(), "Ġt", "he", "Ġthe", "<mask>"]
    return {token: i for i, token in enumerate(tokens)}


def write_byte_level(directory: Path) -> None:
    """``vocab.json`` and ``merges.txt``."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "vocab.json").write_text(json.dumps(byte_level_vocabulary()), encoding="utf-8")
    (directory / "merges.txt").write_text("#version: 0.2\nĠ t\nh e\nĠt he\n", encoding="utf-8")


def config(kind: str, vocabulary: int, **changes) -> Dict:
    """A small ``config.json``; RoBERTa has two more positions than it can use, and one token type."""
    own = dict(type_vocab_size=2, layer_norm_eps=1e-12, pad_token_id=0)
    if kind == "roberta":
        own = dict(type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1, max_position_embeddings=258)
    return {"model_type": kind, "vocab_size": vocabulary, **SIZE, **own, **changes}


def weights(config: Dict, lm_head: bool = False, seed: int = 0) -> Dict[str, Tensor]:
    """Random weights under the published names."""
    d, inner = config["hidden_size"], config["intermediate_size"]
    generator = torch.Generator().manual_seed(seed)
    result = {}

    def add(name, *shape, mean=0.0):
        result[name] = mean + 0.2 * torch.randn(*shape, generator=generator)

    def linear(name, out, into):
        add(f"{name}.weight", out, into)
        add(f"{name}.bias", out)

    def norm(name):
        add(f"{name}.weight", d, mean=1.0)
        add(f"{name}.bias", d)

    prefix = config["model_type"] + "."
    add(f"{prefix}embeddings.word_embeddings.weight", config["vocab_size"], d)
    add(f"{prefix}embeddings.position_embeddings.weight", config["max_position_embeddings"], d)
    add(f"{prefix}embeddings.token_type_embeddings.weight", config["type_vocab_size"], d)
    norm(f"{prefix}embeddings.LayerNorm")
    for n in range(config["num_hidden_layers"]):
        layer = f"{prefix}encoder.layer.{n}."
        for part in ("query", "key", "value"):
            linear(f"{layer}attention.self.{part}", d, d)
        linear(f"{layer}attention.output.dense", d, d)
        norm(f"{layer}attention.output.LayerNorm")
        linear(f"{layer}intermediate.dense", inner, d)
        linear(f"{layer}output.dense", d, inner)
        norm(f"{layer}output.LayerNorm")
    linear(f"{prefix}pooler.dense", d, d)
    if lm_head:
        bert = config["model_type"] == "bert"
        linear("cls.predictions.transform.dense" if bert else "lm_head.dense", d, d)
        norm("cls.predictions.transform.LayerNorm" if bert else "lm_head.layer_norm")
        add("cls.predictions.bias" if bert else "lm_head.bias", config["vocab_size"])
    return result


def write(directory: Path, config: Dict, weights: Dict[str, Tensor], safe: bool = True) -> Path:
    """``config.json``, and the weights as safetensors or pickled."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    if safe:
        from safetensors.torch import save_file

        save_file(weights, str(directory / "model.safetensors"))
    else:
        torch.save(weights, directory / "pytorch_model.bin")
    return directory


def write_bert(directory: Path, lm_head: bool = False, seed: int = 0, safe: bool = True, **changes) -> Path:
    """A whole small BERT; its vocabulary is `WORDPIECES`."""
    write_wordpiece(directory)
    settings = config("bert", len(WORDPIECES), **changes)
    return write(directory, settings, weights(settings, lm_head, seed), safe)


def write_roberta(directory: Path, lm_head: bool = False, seed: int = 0, **changes) -> Path:
    """A whole small RoBERTa; its vocabulary is `byte_level_vocabulary`."""
    write_byte_level(directory)
    settings = config("roberta", len(byte_level_vocabulary()), **changes)
    return write(directory, settings, weights(settings, lm_head, seed))


def encode(config: Dict, weights: Dict[str, Tensor], ids: List[int], types: List[int]) -> Tensor:
    """BERT's or RoBERTa's hidden states (T, width) of one sentence or pair, straight from the published weights."""
    w = {name[len(config["model_type"]) + 1 :]: value for name, value in weights.items()}
    d, heads = config["hidden_size"], config["num_attention_heads"]
    first = 2 if config["model_type"] == "roberta" else 0  # the row of the first token's position

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x, name):
        return F.layer_norm(x, (d,), w[f"{name}.weight"], w[f"{name}.bias"], config["layer_norm_eps"])

    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.token_type_embeddings.weight"][types]
    x = norm(x + w["embeddings.position_embeddings.weight"][first : first + len(ids)], "embeddings.LayerNorm")
    for n in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{n}"
        q, k, v = (
            linear(x, f"{layer}.attention.self.{part}").view(len(ids), heads, d // heads).transpose(0, 1)
            for part in ("query", "key", "value")
        )
        scores = (q @ k.transpose(1, 2) / (d // heads) ** 0.5).softmax(-1)
        y = (scores @ v).transpose(0, 1).reshape(len(ids), d)
        x = norm(x + linear(y, f"{layer}.attention.output.dense"), f"{layer}.attention.output.LayerNorm")
        y = linear(F.gelu(linear(x, f"{layer}.intermediate.dense")), f"{layer}.output.dense")
        x = norm(x + y, f"{layer}.output.LayerNorm")
    return x


# ---------------------------------------------------------------------- data for sentence_prediction


def write_sentence_data(directory: Path, dict_txt: Path, first, second, labels) -> Path:
    """Binarize training data: lines of symbols (pairs, where *second* is not None) and their labels."""
    sides = {"input0": first, **({} if second is None else {"input1": second}), "label": labels}
    for side, lines in sides.items():
        text = directory / "text" / side
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        flags = [] if side == "label" else ["--srcdict", str(dict_txt)]
        line = ["--only-source", "--trainpref", str(text), "--destdir", str(directory / "bin" / side), *flags]
        preprocess.main(options.get_preprocessing_parser().parse_args(line))
    return directory / "bin"


SENTENCE_PREDICTION = "--criterion sentence_prediction".split()
FP16 = "--fp16 --fp16-no-flatten-grads --fp16-init-scale 4".split()  # as it runs on a CPU
