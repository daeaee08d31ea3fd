"""``--arch prefix``: the prefix alone trains, in every precision and under every method; checkpoints; what is refused."""

import pytest
import texts
import torch
import toy
from fairseq import checkpoint_utils

from sharp_plugins.generation.generator import Generator
from sharp_plugins.generation.settings import SearchSettings
from sharp_plugins.networks.prefix import Prefix

PLAIN = texts.MODELS["llama"]
PREFIX = ["--arch", "prefix", "--base-arch", *PLAIN[1:], "--prefix-length", "3", "--prefix-hidden", "8"]
ADAM = "--optimizer adam --lr 0.01 --clip-norm 1".split()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return texts.write_data(tmp_path_factory.mktemp("text"))


def trainer_of(data, *flags, model=PREFIX):
    return texts.trainer(data, *flags, model=model)


def save(trainer, path):
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(path), {"train_iterator": {"epoch": 1}})


def test_the_prefix_alone_trains_and_names_stay(data):
    trainer, plain = trainer_of(data, *ADAM), trainer_of(data, *ADAM, model=PLAIN)
    model = trainer.get_model()
    added = {f"decoder.prefix.{name}" for name in ("embedding", "fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")}
    assert model.state_dict().keys() - plain.get_model().state_dict().keys() == added
    assert model.state_dict().keys() >= plain.get_model().state_dict().keys()
    model.load_state_dict(plain.get_model().state_dict())  # a plain checkpoint
    assert {name for name, p in model.named_parameters() if p.requires_grad} == added
    before = toy.weights(trainer)
    for _ in range(3):
        trainer.train_step(toy.batches(trainer, [6]))
    now = toy.weights(trainer)
    assert {name for name in now if not torch.equal(now[name], before[name])} == added
    assert model.decoder.prefix.width == 2 * 2 * 2 * 4  # layers · (k, v) · kv heads · head
    assert model.max_positions() == 64 - 3


def test_without_the_network_the_prefix_itself_trains(data):
    trainer = trainer_of(data, *ADAM, "--prefix-hidden", "0")
    assert [name for name, p in trainer.get_model().named_parameters() if p.requires_grad] == ["decoder.prefix.table"]
    before = toy.weights(trainer)
    trainer.train_step(toy.batches(trainer, [6]))
    assert not torch.equal(toy.weights(trainer)["decoder.prefix.table"], before["decoder.prefix.table"])


PRECISIONS = {
    "fp32": [],
    "fp16": ["--fp16", "--fp16-no-flatten-grads"],
    "bf16": ["--bf16"],
    "memory-efficient fp16": ["--memory-efficient-fp16"],
    "memory-efficient bf16": ["--memory-efficient-bf16"],
}
METHODS = {
    "adam": ADAM,
    "sam": "--optimizer sam --lr 0.01 --sam-rho 0.1".split(),
    "dsam": "--optimizer dsam --lr 0.01 --sam-rho 0.1".split(),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_and_method(data, precision, method):
    flags = [*METHODS[method], *PRECISIONS[precision], "--fp16-init-scale", "4"]
    trainer = trainer_of(data, *flags)
    before = toy.weights(trainer)
    trainer.train_step(toy.batches(trainer, [4, 4]))
    now = toy.weights(trainer)
    changed = {name for name in now if not torch.equal(now[name], before[name])}
    assert changed and all(name.startswith("decoder.prefix.") for name in changed)
    assert all(value.isfinite().all() for value in now.values())


@pytest.mark.parametrize("hidden", ["0", "8"])
def test_checkpointed_layers_give_the_same_update(data, hidden):
    """fairseq computes such layers again in the backward pass; with the same dropout."""
    flags = [*ADAM, "--prefix-hidden", hidden, "--prefix-dropout", "0.1", "--attention-dropout", "0.1"]
    first, second = (trainer_of(data, *flags, *more) for more in ([], ["--checkpoint-activations"]))
    second.get_model().load_state_dict(first.get_model().state_dict())
    gradients = []
    for trainer in (first, second):
        samples = toy.batches(trainer, [5])
        torch.manual_seed(1)
        trainer.get_criterion()(trainer.get_model().train(), samples[0])[0].backward()
        gradients.append({name: p.grad for name, p in trainer.get_model().named_parameters() if p.requires_grad})
    toy.assert_same(*gradients)
    assert all(gradient.abs().max() > 0 for gradient in gradients[0].values())
    for _ in range(2):  # a training's own way
        second.train_step(toy.batches(second, [4, 4]))


def large(data, family, *flags):
    """A model with weights that are large enough to matter."""
    return texts.model(data, *flags, model=["--arch", "prefix", "--base-arch", *texts.MODELS[family][1:], "--prefix-length", "3"])


@pytest.mark.parametrize("family", texts.MODELS)
def test_token_by_token_it_gives_what_it_gives_at_once(data, family):
    decoder = large(data, family, "--prefix-dropout", "0.5").decoder
    tokens = torch.randint(4, 24, (2, 6), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = decoder(tokens)[0]
        state, parts = {}, [slice(0, 3), slice(3, 4), slice(4, 6)]
        found = [decoder(tokens[:, : part.stop], incremental_state=state)[0] for part in parts]
        torch.testing.assert_close(torch.cat(found, dim=1), expected, rtol=1e-5, atol=1e-5)
        decoder.reorder_incremental_state(state, torch.tensor([1, 1]))
        more = torch.full((2, 1), 7)
        after = decoder(torch.cat([tokens[[1, 1]], more], dim=1), incremental_state=state)[0]
        whole = decoder(torch.cat([tokens[[1, 1]], more], dim=1))[0][:, -1:]
        torch.testing.assert_close(after, whole, rtol=1e-5, atol=1e-5)
        decoder.prefix = None
        assert (decoder(tokens)[0] - expected).abs().max() > 1e-3


@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("family", texts.MODELS)
def test_generation_continues_prompts_behind_the_prefix(data, family, beam):
    """Each hypothesis has the scores that one pass over all of it gives; greedy takes the best symbol of each such pass."""
    model = large(data, family)
    dictionary = model.decoder.dictionary
    settings = SearchSettings(stops=(dictionary.eos(),), never=(dictionary.pad(),), beam=beam, nbest=beam, max_len_b=6)
    prompts = torch.tensor([[5, 9, 7, 12], [8, 6, dictionary.pad(), dictionary.pad()]])
    found = Generator([model], dictionary, settings).generate([model], {"net_input": {"src_tokens": prompts}})
    with torch.no_grad():
        for prompt, hypotheses in zip(prompts, found):
            prompt = prompt[prompt.ne(dictionary.pad())]
            for hypothesis in hypotheses:
                tokens = hypothesis["tokens"]
                logs = model(torch.cat([prompt, tokens])[None, :-1])[0][0, len(prompt) - 1 :].log_softmax(-1)
                own = logs.gather(1, tokens[:, None])[:, 0]
                torch.testing.assert_close(hypothesis["positional_scores"], own, rtol=1e-4, atol=1e-4)
                logs[:, dictionary.pad()] = float("-inf")
                if beam == 1:
                    assert torch.equal(logs[1:].argmax(-1), tokens[1:])
        model.decoder.prefix = None
        others = Generator([model], dictionary, settings).generate([model], {"net_input": {"src_tokens": prompts}})
        assert any(not torch.equal(one[0]["tokens"], other[0]["tokens"]) for one, other in zip(found, others))


def test_a_lower_loss(data):
    trainer = trainer_of(data, *ADAM)
    samples = toy.batches(trainer, [32])
    losses = [trainer.train_step(samples)["loss"] for _ in range(12)]
    assert losses[-1] < losses[0] - 0.01


def test_going_on_equals_never_having_stopped(data, tmp_path):
    flags = [*ADAM, "--prefix-dropout", "0.1", "--save-dir", str(tmp_path)]
    trainer = trainer_of(data, *flags)
    samples = toy.batches(trainer, [6])
    trainer.train_step(samples)
    save(trainer, tmp_path / "one.pt")
    again = trainer_of(data, *flags)
    again.load_checkpoint(str(tmp_path / "one.pt"))
    for each in (trainer, again):
        each.train_step(toy.batches(each, [6]))
    toy.assert_same(toy.weights(trainer), toy.weights(again))


def test_a_checkpoint_is_loaded_and_computes_the_same_when_generation_has_folded_it(data, tmp_path):
    trainer = trainer_of(data, *ADAM, "--save-dir", str(tmp_path))
    trainer.train_step(toy.batches(trainer, [6]))
    save(trainer, tmp_path / "one.pt")
    (model,), cfg, _ = checkpoint_utils.load_model_ensemble_and_task([str(tmp_path / "one.pt")])
    tokens = toy.batches(trainer, [4])[0]["net_input"]["src_tokens"]
    with torch.no_grad():
        expected = trainer.get_model().eval()(tokens)[0]
        model.eval()
        assert torch.equal(model(tokens)[0], expected)
        model.prepare_for_inference_(cfg)
        assert torch.equal(model(tokens)[0], expected)
    assert [name for name, _ in model.decoder.prefix.named_parameters()] == ["table"]


def test_a_pretrained_decoder_is_where_it_starts(data, tmp_path):
    plain = trainer_of(data, *ADAM, "--save-dir", str(tmp_path), model=PLAIN)
    plain.train_step(toy.batches(plain, [6]))
    save(plain, tmp_path / "plain.pt")
    trainer = trainer_of(data, *ADAM)
    trainer.load_checkpoint(str(tmp_path / "plain.pt"), reset_optimizer=True, reset_lr_scheduler=True, reset_meters=True)
    state, expected = toy.weights(trainer), toy.weights(plain)
    toy.assert_same({name: state[name] for name in expected}, expected)
    assert isinstance(trainer.get_model().decoder.prefix, Prefix)


def test_a_frozen_weight_that_changes_is_noticed(data, tmp_path):
    trainer = trainer_of(data, *ADAM)
    trainer.train_step(toy.batches(trainer, [6]))
    trainer.get_model().decoder.embed_tokens.weight.data[5] += 1
    with pytest.raises(RuntimeError, match="the frozen weight decoder.embed_tokens.weight has changed"):
        save(trainer, tmp_path / "one.pt")


def test_bar_has_no_pairs_here(data):
    with pytest.raises(ValueError, match="--optimizer bar needs .* .a prefix makes none"):
        trainer_of(data, "--optimizer", "bar", "--lr", "0.01")


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--prefix-length", "0"], "--prefix-length must be 1 or larger"),
        (["--prefix-hidden", "-1"], "--prefix-hidden must be 0"),
        (["--prefix-dropout", "1"], "--prefix-dropout must be from 0"),
    ],
)
def test_bad_flags_end_the_command_line(data, capsys, flags, words):
    with pytest.raises(SystemExit):
        trainer_of(data, *ADAM, *flags)
    assert words in capsys.readouterr().err.splitlines()[-1]


def test_a_flag_without_its_architecture(data, capsys):
    with pytest.raises(SystemExit):
        trainer_of(data, *ADAM, "--prefix-length", "4", model=PLAIN)
    assert "--prefix-length needs --arch prefix --base-arch sharp_smollm2_135m" in capsys.readouterr().err


def test_a_prefix_without_room_is_refused(data):
    with pytest.raises(ValueError, match="--prefix-length 64 leaves no room: the model has 64 positions"):
        trainer_of(data, *ADAM, "--prefix-length", "64")


@pytest.mark.parametrize("mode", ["none", "complete"])
def test_blocks_without_room_behind_the_prefix_are_refused(data, mode):
    """fairseq would leave full blocks out of training, and stop at the first of a validation."""
    blocks = ["--sample-break-mode", mode, "--tokens-per-sample"]
    with pytest.raises(
        ValueError, match="--tokens-per-sample 62: the model has 64 positions, .* takes 3 of them; set it to 61 at most$"
    ):
        trainer_of(data, *ADAM, *blocks, "62")
    trainer = trainer_of(data, *ADAM, *blocks, "61")
    dataset = trainer.task.dataset("train")
    assert max(dataset.sizes) == 61 and trainer.get_model().max_positions() == 61
    base = "--base-arch sharp_decoder --decoder-layers 1 --decoder-embed-dim 8 --decoder-attention-heads 2 --prefix-length 3"
    model = ["--arch", "prefix", *base.split()]  # with as many positions as the blocks have tokens
    with pytest.raises(ValueError, match="set it to 13 at most, and --max-target-positions to 16"):
        trainer_of(data, *ADAM, *blocks, "16", model=model)


@pytest.mark.parametrize("mode", ["eos", "complete_doc"])
def test_rows_that_may_be_short_are_not(data, mode):
    trainer_of(data, *ADAM, "--sample-break-mode", mode, "--tokens-per-sample", "64")


def test_another_base_is_refused_by_name(translation_data):
    model = ["--arch", "prefix", "--base-arch", *toy.MODEL[1:]]
    with pytest.raises(ValueError, match="--arch prefix: the attention of --base-arch transformer has no place for a prefix"):
        toy.build_trainer(translation_data, *ADAM, model=model)
