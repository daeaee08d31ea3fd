"""Vectors of sentences against transformers' models."""

import pairs
import published
import pytest
import torch
from fairseq import checkpoint_utils

from sharp_plugins.contrastive.dataset import rows_of
from sharp_plugins.contrastive.pooling import POOLINGS, sentence_vectors
from sharp_plugins.convert.conversion import convert
from sharp_plugins.text.tokenizer import Tokenizer


@pytest.fixture(scope="module", params=["bert", "roberta", "all-MiniLM-L6-v2"])
def both(request, tmp_path_factory):
    """A converted encoder, fairseq's model of it, and transformers' model and tokenizer of the published files."""
    transformers = pytest.importorskip("transformers")
    directory = tmp_path_factory.mktemp(request.param)
    if request.param == "all-MiniLM-L6-v2":
        (directory / "published").symlink_to(request.getfixturevalue("minilm_directory"))
        convert(directory / "published", directory / "converted")
        backbone = directory / "converted"
    else:
        backbone = pairs.write_backbone(directory, request.param)
    (model,), _, task = checkpoint_utils.load_model_ensemble_and_task([str(backbone / "model.pt")], {"data": str(backbone)})
    theirs = transformers.AutoModel.from_pretrained(directory / "published", add_pooling_layer=False).eval()
    return backbone, model.eval(), task.source_dictionary, theirs


@pytest.mark.parametrize("pooling", POOLINGS)
@torch.no_grad()
def test_a_vector_is_that_of_transformers(both, pooling):
    backbone, model, dictionary, theirs = both
    tokenizer = Tokenizer.load(backbone)
    sentences = published.SENTENCES[:4] + ["x"]
    tokens = rows_of(sentences, tokenizer, dictionary, length=64, is_padded=True)
    ours = sentence_vectors(model, tokens, dictionary.pad(), pooling)

    published_id = {dictionary.index(symbol): number for symbol, number in zip(tokenizer.symbols, tokenizer.published_ids)}
    ids = torch.tensor([[published_id[token] for token in row] for row in tokens.tolist()])
    mask = tokens.ne(dictionary.pad()).long()
    hidden = theirs(input_ids=ids, attention_mask=mask).last_hidden_state
    weights = mask.unsqueeze(-1).float()
    expected = {"cls": hidden[:, 0], "mean": (hidden * weights).sum(1) / weights.sum(1), "mean-padded": hidden.mean(1)}[pooling]
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_padding_is_put_back_for_one_pass_alone(both):
    _, model, dictionary, _ = both
    tokens = torch.tensor([[0, 7, 8, 2, 1, 1]])
    before = model(tokens, features_only=True)[0]
    sentence_vectors(model, tokens, dictionary.pad(), "mean-padded")
    assert torch.equal(before, model(tokens, features_only=True)[0])
