"""Converted models compute what `transformers` computes, on its own tokens, in fp32 to 1e-5."""

import copy

import published
import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.models.roberta import RobertaModel
from published import PAIRS, SENTENCES

from sharp_plugins.convert.conversion import convert
from sharp_plugins.text.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

INPUTS = [*SENTENCES, *PAIRS]


class Both:
    """The published model in `transformers` and the converted one in fairseq."""

    def __init__(self, directory, out, auto=transformers.AutoModel):
        self.separators = convert(directory, out).pairs.separators
        self.theirs = auto.from_pretrained(str(directory)).eval()
        self.their_tokenizer = transformers.AutoTokenizer.from_pretrained(str(directory))
        ensemble, _, self.task = checkpoint_utils.load_model_ensemble_and_task(
            [str(out / "model.pt")], arg_overrides={"data": str(out)}
        )
        self.ours, self.out = ensemble[0].eval(), out
        self.tokenizer = Tokenizer.load(out)

    def our_ids(self, text):
        """Indices in our dictionary, put together as the stock task does it."""
        dictionary = self.task.source_dictionary
        one, *other = [text] if isinstance(text, str) else text
        ids = [dictionary.bos(), *map(dictionary.index, self.tokenizer.encode(one)), dictionary.eos()]
        for sentence in other:
            ids += [dictionary.eos()] * (self.separators - 1)
            ids += [*map(dictionary.index, self.tokenizer.encode(sentence)), dictionary.eos()]
        return ids

    def state(self):
        return torch.load(self.out / "model.pt", weights_only=True)["model"]

    def our_features(self, texts, **kwargs):
        rows = [self.our_ids(text) for text in texts]
        tokens = torch.full((len(rows), max(map(len, rows))), self.task.source_dictionary.pad())
        for row, ids in zip(tokens, rows):
            row[: len(ids)] = torch.tensor(ids)
        with torch.no_grad():
            output, _ = self.ours(tokens, **kwargs)
        return [row[: len(ids)] for row, ids in zip(output, rows)]

    def their_output(self, texts):
        """The model's output for a padded batch of sentences or of pairs, and the number of tokens of each."""
        columns = [list(texts)] if isinstance(texts[0], str) else [list(column) for column in zip(*texts)]
        inputs = self.their_tokenizer(*columns, padding=True, return_tensors="pt")
        if self.theirs.config.type_vocab_size == 1:
            inputs.pop("token_type_ids", None)
        with torch.no_grad():
            return self.theirs(**inputs), inputs["attention_mask"].sum(1).tolist()

    def assert_agree(self, texts):
        """In one padded batch, and each alone; returns the largest difference."""
        output, lengths = self.their_output(texts)
        theirs = [row[:length] for row, length in zip(output.last_hidden_state, lengths)]
        alone = [self.our_features([text], features_only=True)[0] for text in texts]
        together = self.our_features(texts, features_only=True)
        for ours in (alone, together):
            for one, other in zip(ours, theirs):
                torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
        return max(float((a - b).abs().max()) for ours in (alone, together) for a, b in zip(ours, theirs))

    def assert_all(self):
        self.assert_same_tokens()
        self.assert_agree(SENTENCES)
        self.assert_agree(PAIRS)

    def assert_same_tokens(self):
        rows = self.tokenizer.published_ids
        for text in INPUTS:
            theirs = self.their_tokenizer(*([text] if isinstance(text, str) else text))["input_ids"]
            assert [rows[i] for i in self.our_ids(text)] == theirs, text


@pytest.fixture(scope="module")
def minilm(minilm_directory, tmp_path_factory):
    return Both(minilm_directory, tmp_path_factory.mktemp("minilm"))


def test_minilm_on_sentences(minilm):
    minilm.assert_same_tokens()
    minilm.assert_agree(SENTENCES)


def test_minilm_on_pairs(minilm):
    minilm.assert_agree(PAIRS)
    with torch.no_grad():  # and the pairs' token types matter for it
        ids = torch.tensor([minilm.our_ids(PAIRS[0])])
        without, _ = minilm.ours(ids, features_only=True, token_types=torch.zeros_like(ids))
    assert (without[0] - minilm.our_features(PAIRS[:1], features_only=True)[0]).abs().max() > 0.01


def test_minilms_pooler_is_the_first_half_of_a_new_head(minilm):
    output, _ = minilm.their_output(PAIRS)
    model = copy.deepcopy(minilm.ours)
    model.register_classification_head("head", num_classes=2)
    model.load_state_dict(minilm.state())
    first = torch.stack([row[0] for row in minilm.our_features(PAIRS, features_only=True)])
    with torch.no_grad():
        ours = torch.tanh(model.classification_heads["head"].dense(first))
    torch.testing.assert_close(ours, output.pooler_output, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [{}, {"hidden_act": "gelu_new"}, {"hidden_act": "relu", "num_attention_heads": 4}], ids=str)
def test_small_bert(tmp_path, size):
    both = Both(published.write_bert(tmp_path / "published", **size), tmp_path / "out")
    both.assert_all()


def test_small_roberta(tmp_path):
    both = Both(published.write_roberta(tmp_path / "published"), tmp_path / "out")
    assert type(both.ours) is RobertaModel  # fairseq's own
    both.assert_all()


def test_a_bert_whose_tokenizer_is_robertas(tmp_path):
    """As multilingual MiniLM's is: pairs have two separators, and their sentences one token type."""
    directory = tmp_path / "published"
    published.write_byte_level(directory)
    config = published.config("bert", len(published.byte_level_vocabulary()), pad_token_id=1)
    published.write(directory, config, published.weights(config))
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "RobertaTokenizer"}')
    both = Both(directory, tmp_path / "out")
    assert both.separators == 2
    both.assert_all()


def test_a_roberta_whose_tokenizer_is_berts(tmp_path):
    directory = tmp_path / "published"
    words = ["[unused1]", "[PAD]", *(word for word in published.WORDPIECES if word != "[PAD]")]  # the padding is number 1
    published.write_wordpiece(directory, words)
    config = published.config("roberta", len(words))
    published.write(directory, config, published.weights(config))
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    both = Both(directory, tmp_path / "out")
    assert both.separators == 1
    both.assert_all()


@pytest.mark.parametrize("write", [published.write_bert, published.write_roberta])
def test_language_model_heads(tmp_path, write):
    both = Both(write(tmp_path / "published", lm_head=True), tmp_path / "out", transformers.AutoModelForMaskedLM)
    output, lengths = both.their_output(PAIRS)
    ours = both.our_features(PAIRS)
    for one, other, length in zip(ours, output.logits, lengths):
        torch.testing.assert_close(one, other[:length][:, both.tokenizer.published_ids], rtol=0, atol=1e-5)


@pytest.mark.parametrize("write", [published.write_bert, published.write_roberta])
def test_models_as_transformers_saves_them(tmp_path, write):
    """Its own config.json, names and tokenizer.json; here of a model for pre-training, in half precision."""
    published_directory, saved = write(tmp_path / "published", lm_head=True), tmp_path / "saved"
    model = transformers.AutoModelForPreTraining.from_pretrained(str(published_directory)).half()
    model.save_pretrained(saved)
    transformers.AutoTokenizer.from_pretrained(str(published_directory)).save_pretrained(saved)
    assert (saved / "tokenizer.json").is_file() and not (saved / "merges.txt").exists()
    both = Both(saved, tmp_path / "out")
    both.theirs.float()
    both.assert_same_tokens()
    both.assert_agree(PAIRS)
