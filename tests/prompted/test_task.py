"""The task: what it loads, builds and refuses, and generation's side of it."""

import shutil

import prompts
import pytest
import torch
import toy
from fairseq import tasks
from fairseq.data import data_utils
from fairseq.dataclass.configs import GenerationConfig
from omegaconf import OmegaConf

from sharp_plugins.prompted.checkpoints import read_checked
from sharp_plugins.prompted.checks import check_post_process
from sharp_plugins.prompted.task import PromptedGenerationConfig


def task_of(data, **settings):
    cfg = OmegaConf.structured(
        PromptedGenerationConfig(data=str(data), finetune_from_model=None, restore_file="", save_dir="", path=None, **settings)
    )
    return tasks.setup_task(OmegaConf.merge(cfg, {"_name": "prompted_generation"}))


# ---------------------------------------------------------------------- data and model


def test_the_model_has_the_datas_positions_and_unused_symbols(data):
    model = [flag for flag in prompts.MODEL if flag not in ("--max-target-positions", "64")]
    trainer = prompts.trainer(data, model=model)
    settings = trainer.get_model().decoder.settings
    assert settings.max_positions == 64 and len(settings.unused) == 3 and trainer.task.max_positions() == 64
    trainer = prompts.trainer(data, "--tokens-per-sample", "50", model=model)
    assert trainer.get_model().decoder.settings.max_positions == 64 and trainer.task.max_positions() == 50


def test_rows_that_a_shorter_model_does_not_read_are_left_out_of_training_alone(data):
    trainer = prompts.trainer(data, "--tokens-per-sample", "30", "--batch-size", "4", "--disable-validation")
    batches = list(trainer.get_train_iterator(epoch=1).next_epoch_itr(shuffle=False))
    assert max(batch["net_input"]["src_tokens"].size(1) for batch in batches) == 30
    words = "the longest sequence of valid takes 44 positions, more than {}; --skip-invalid-size-inputs-valid-test leaves"
    with pytest.raises(ValueError, match=words.format("--tokens-per-sample 30")):
        trainer.task.load_dataset("valid")
    with pytest.raises(ValueError, match=words.format("--tokens-per-sample 30")):  # before the model is built
        prompts.trainer(data, "--tokens-per-sample", "30", model=["--arch", "sharp_decoder", "--decoder-layers", "-1"])
    prefix = ["--arch", "prefix", "--base-arch", "sharp_decoder", *prompts.MODEL[2:], "--prefix-length", "40"]
    with pytest.raises(ValueError, match="--prefix-length 40: rows of up to 50 positions do not fit into 24; at most 14"):
        prompts.trainer(data, model=prefix)
    trainer = prompts.trainer(data, "--tokens-per-sample", "30", "--skip-invalid-size-inputs-valid-test", "--batch-size", "4")
    trainer.task.load_dataset("valid")
    rows = [batch["target"] for batch in trainer.get_valid_iterator("valid").next_epoch_itr(shuffle=False)]
    assert 0 < sum(map(len, rows)) < 9


def test_training_data_of_which_all_rows_are_too_long(data):
    """fairseq's own error, and no IndexError."""
    trainer = prompts.trainer(data, "--tokens-per-sample", "6", "--batch-size", "4", "--disable-validation")
    with pytest.raises(
        Exception, match="The dataset is empty. This could indicate that all elements in the dataset have been skipped"
    ):
        trainer.get_train_iterator(epoch=1)


@pytest.mark.parametrize("positions", ["-4", "1", "2000"])
def test_positions_that_the_model_has_not(data, positions):
    with pytest.raises(ValueError, match=f"--tokens-per-sample must be from 2 to 64, the model's positions, and is {positions}"):
        prompts.trainer(data, "--tokens-per-sample", positions)


def test_rows_of_the_configured_training_data_are_shuffled(data):
    trainer = prompts.trainer(data, subset="valid")
    trainer.task.load_dataset("train")
    assert trainer.task.dataset("valid").shuffle and not trainer.task.dataset("train").shuffle


@pytest.mark.parametrize("name", ["sentence_prediction", "masked_lm", "ctc"])
def test_criterions_of_other_tasks(data, name):
    with pytest.raises(ValueError, match=f"--criterion {name}: it is for other tasks than prompted_generation"):
        prompts.trainer(data, criterion=name)


@pytest.mark.parametrize("bpe", ["gpt2", "sentencepiece"])
def test_another_tokenizer(data, bpe):
    flags = ["--bpe", bpe, *(["--sentencepiece-model", "x"] if bpe == "sentencepiece" else [])]
    with pytest.raises(ValueError, match=f"--bpe {bpe}: the data have a tokenizer of their own"):
        prompts.trainer(data, *flags)


def test_weights_of_another_shape(data, backbone, smollm, caplog):
    changes = ["--decoder-layers", "3", "--decoder-attention-heads", "4", "--untied-output", "--max-target-positions", "70"]
    lora = ["--arch", "lora", "--base-arch", "sharp_decoder", *prompts.MODEL[2:], "--lora-rank", "2"]
    for model in (prompts.MODEL, lora):
        with pytest.raises(ValueError, match="its model has another shape than --arch and its flags say") as error:
            prompts.trainer(data, "--finetune-from-model", backbone / "model.pt", *changes, model=model)
        found = "--untied-output False and not True", "--decoder-layers 2 and not 3", "--max-target-positions 64 and not 70"
        assert all(words in str(error.value) for words in [*found, "--decoder-head-dim 8 and not 4"])
        assert "decoder-embed-dim" not in str(error.value)
        prompts.trainer(data, "--finetune-from-model", backbone / "model.pt", model=model)  # nothing is said
    assert "its model has" not in caplog.text
    with caplog.at_level("WARNING"):
        prompts.trainer(data, "--finetune-from-model", backbone / "model.pt", "--activation-fn", "relu")
    assert "its model has --activation-fn gelu_accurate and not relu" in caplog.text


def test_data_that_are_not_there(data, tmp_path):
    with pytest.raises(FileNotFoundError, match="no data of valid1; there are train, valid, test"):
        task_of(data).load_dataset("valid1")
    with pytest.raises(FileNotFoundError, match="python -m sharp_plugins.prompted prepare` writes such a directory"):
        task_of(tmp_path)


def test_settings_that_do_not_fit(data):
    with pytest.raises(ValueError, match="--add-bos-token: the format of the data says"):
        task_of(data, add_bos_token=True)
    with pytest.raises(ValueError, match="trains language models, such as --arch sharp_gpt2, and TransformerModel is none"):
        prompts.trainer(data, model=toy.MODEL)


def test_a_checkpoint_of_another_model_is_refused_by_name(data, backbone, smollm, tmp_path):
    task = task_of(data)
    read_checked(backbone / "model.pt", task.prepared)
    with pytest.raises(ValueError, match="its dict.txt and tokenizer.json are another model's than those of"):
        read_checked(smollm / "model.pt", task.prepared)
    with pytest.raises(ValueError, match="another model's"):
        prompts.trainer(data, "--finetune-from-model", smollm / "model.pt")
    # A trained one says so itself, wherever it lies.
    trainer = prompts.trainer(data)
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(tmp_path / "trained.pt"), {"train_iterator": {"epoch": 1}})
    read_checked(tmp_path / "trained.pt", task.prepared)
    other = prompts.prepare(smollm, tmp_path / "other", "--valid", prompts.write_lines(tmp_path / "rows.jsonl", prompts.pairs(3)))
    with pytest.raises(ValueError, match="trained.pt: its dict.txt and tokenizer.json are another model's"):
        read_checked(tmp_path / "trained.pt", task_of(other).prepared)
    with pytest.raises(ValueError, match="trained.pt: its dict.txt and tokenizer.json are another model's"):
        prompts.trainer(other, "--restore-file", tmp_path / "trained.pt")
    with pytest.raises(ValueError, match="the checkpoint: its dict.txt"):
        task_of(other).load_state_dict(trainer.task.state_dict())


def test_another_format_is_told(data, backbone, texts, tmp_path, caplog):
    other = task_of(prompts.prepare(backbone, tmp_path / "plain", *texts))
    with caplog.at_level("WARNING"):
        other.load_state_dict(task_of(data).state_dict())
    assert "trained with another format" in caplog.text


# ---------------------------------------------------------------------- generation


@pytest.fixture
def facts(smollm, tmp_path):
    """With a template of two lines, and a start that is a symbol like others."""
    rows = prompts.write_lines(tmp_path / "rows.jsonl", prompts.pairs(5))
    return task_of(prompts.prepare(smollm, tmp_path / "facts", "--test", rows, "--format", "facts"))


def test_lines_are_raw_prompts_and_texts(facts, data):
    bpe = facts.build_bpe(None)
    symbols = bpe.encode("Ann_B : livesIn : Bonn")
    assert symbols.split()[0] == "<|endoftext|>" and symbols.split()[-6:] == ["Ċ", "T", "e", "x", "t", ":"]
    assert bpe.decode(symbols) == "Ann B : livesIn : Bonn"
    text = " ".join(facts.encoding.symbols(facts.encoding.texts(["Ann lives\nin Bonn."])[0]))
    assert bpe.decode(text) == "Ann lives in Bonn."
    tokens, lengths = facts.get_interactive_tokens_and_lengths(["Ann : livesIn : Bonn"], bpe.encode)
    assert tokens[0].tolist() == facts.encoding.prompts(["Ann : livesIn : Bonn"])[0] and lengths == [len(tokens[0])]
    lora = task_of(data)
    tokens, _ = lora.get_interactive_tokens_and_lengths(["x"], lora.build_bpe(None).encode)
    assert tokens[0].tolist()[-1] == lora.dictionary.eos() != tokens[0].tolist()[0]


@pytest.mark.parametrize(
    "flags, text",
    [
        (["--prompt-template", "{prompt}\n"], "A line.\n"),
        (["--prompt-template", "Q: {prompt}", "--text-template", "{text}"], "Q: what is it?"),
    ],
)
def test_a_text_that_looks_like_a_prompt_is_none(smollm, tmp_path, flags, text):
    """By where a line comes from: prompts are written by the source dictionary."""
    rows = prompts.write_lines(tmp_path / "rows.jsonl", [(text, [text])])
    task = task_of(prompts.prepare(smollm, tmp_path / "data", "--test", rows, *flags))
    task.load_dataset("test")
    row, decode = task.dataset("test")[0], task.build_bpe(None).decode
    assert decode(task.target_dictionary.string(row["text"])) == text.replace("\n", " ")
    assert decode(task.source_dictionary.string(row["prompt"])) == text.replace("\n", " ")


def test_prompts_that_cannot_be_continued(data):
    task = task_of(data)
    encode = task.build_bpe(None).encode
    with pytest.raises(ValueError, match="line 1 of the input, '': a prompt is empty"):
        task.get_interactive_tokens_and_lengths([""], encode)
    task.get_interactive_tokens_and_lengths(["x", "y"], encode)
    with pytest.raises(ValueError, match="line 5 of the input, 'xxx.*': a prompt has 81 symbols, and the model 64 positions"):
        task.get_interactive_tokens_and_lengths(["x", "x" * 80], encode)
    with pytest.raises(ValueError, match=r"line 6 of the input, 'caf\\udce9': it is not UTF-8"):
        task.get_interactive_tokens_and_lengths([b"caf\xe9".decode("utf-8", "surrogateescape")], encode)
    with pytest.raises(ValueError, match="line 8 of the input, 'a <pad> b': a prompt has the symbol <pad>, which the model"):
        task.get_interactive_tokens_and_lengths(["x", "a <pad> b"], lambda line: "x <pad> x" if "<" in line else "x")
    with pytest.raises(ValueError, match="--bpe gpt2: the data have a tokenizer of their own"):
        task.build_bpe(OmegaConf.create({"_name": "gpt2"}))
    with pytest.raises(ValueError, match="--constraints"):
        task.build_dataset_for_inference([], [], constraints=torch.zeros(1))


@pytest.mark.parametrize("how", [None, "none", "subword_nmt", "@@ ", "silence"])
def test_what_joins_no_symbols_is_taken(data, how):
    check_post_process(how)
    assert data_utils.post_process("ĠThe Ġcat", how) == "ĠThe Ġcat"


@pytest.mark.parametrize("how", ["sentencepiece", "letter", "wordpiece", "_EOW"])
def test_symbols_are_joined_by_the_datas_tokenizer_alone(data, how):
    """Joined before, no symbol would be known any more, and each text empty."""
    with pytest.raises(ValueError, match=f"--post-process {how} .or --remove-bpe {how}.: the data's own tokenizer makes texts"):
        task_of(data, post_process=how).build_generator([], GenerationConfig())


def test_a_prompt_without_room_for_its_output_is_named_by_its_line(data):
    trainer = prompts.trainer(data)
    task, model = trainer.task, trainer.get_model()
    task.datasets.clear()
    task.build_generator([model], GenerationConfig(max_len_b=20))
    encode = task.build_bpe(None).encode
    task.get_interactive_tokens_and_lengths(["x"], encode)
    words = "line 2 of the input, 'xxx.*': --max-len-b: a prompt of 51 tokens and an output of up to 20 do not fit into the 64"
    with pytest.raises(ValueError, match=words):
        task.get_interactive_tokens_and_lengths(["x" * 50], encode)


def test_a_criterion_for_an_adaptive_softmax_wants_one(data):
    with pytest.raises(ValueError, match="--criterion adaptive_loss: the model has no adaptive softmax"):
        prompts.trainer(data, "--ddp-backend", "legacy_ddp", criterion="adaptive_loss").get_criterion()


class Recorder:
    """In the place of a generator."""

    def generate(self, models, sample, prefix_tokens=None):
        self.sample, self.prefix = sample, prefix_tokens
        return "texts"

    def ended_alike(self, found):
        return f"{found}, ended alike"


@pytest.mark.parametrize("only_scored", [False, True])
def test_a_sample_becomes_prompts_and_texts(facts, only_scored):
    facts.only_scored = only_scored
    facts.load_dataset("test")
    data, recorder = facts.dataset("test"), Recorder()
    sample = data.collater([data[i] for i in range(5)])
    assert facts.inference_step(recorder, [], sample, prefix_tokens=sample["target"][:, :2]) == "texts, ended alike"
    wanted = [pair[0] for pair in prompts.pairs(5)], [pair[1][0] for pair in prompts.pairs(5)]
    decode = facts.build_bpe(None).decode
    for place, text in enumerate(wanted[1]):
        # As fairseq-generate prints the sample afterwards.
        prompt, target = recorder.sample["net_input"]["src_tokens"][place], sample["target"][place]
        assert decode(facts.source_dictionary.string(prompt[prompt != 1])) == wanted[0][place]
        assert decode(facts.target_dictionary.string(target[target != 1])) == text
        assert recorder.prefix[place].tolist() == facts.encoding.texts([text])[0][:2]
    inference = facts.build_dataset_for_inference(
        *facts.get_interactive_tokens_and_lengths(wanted[0], facts.build_bpe(None).encode)
    )
    alone = inference.collater([inference[i] for i in range(5)])
    assert torch.equal(alone["net_input"]["src_tokens"], sample["net_input"]["src_tokens"])
    facts.inference_step(recorder, [], {"net_input": alone["net_input"]})
    assert recorder.prefix is None


def test_the_generator_stops_where_the_format_says(facts):
    trainer = prompts.trainer(facts.cfg.data, model=prompts.MODEL, subset="test")
    generator = trainer.task.build_generator([trainer.get_model()], GenerationConfig(beam=2, max_len_b=12))
    stops = [trainer.task.dictionary[i] for i in generator.settings.stops]
    assert stops == ["</s>", "Ċ"] and generator.settings.beam == 2
    with pytest.raises(ValueError, match="--max-len-b: a prompt of"):
        trainer.task.build_generator([trainer.get_model()], GenerationConfig(max_len_b=60))
    with pytest.raises(ValueError, match="has a generator of its own"):
        trainer.task.build_generator([trainer.get_model()], GenerationConfig(), seq_gen_cls=Recorder)


def test_a_moved_directory_is_read(data, tmp_path):
    moved = shutil.copytree(data, tmp_path / "moved")
    task_of(moved).load_dataset("train")


def test_a_prefix_that_leaves_no_room_for_the_data_is_refused(data):
    task = task_of(data)
    longest = max(task.prepared.facts[split]["longest"] for split in ("train", "valid"))
    most = 64 - longest
    prefix = ["--arch", "prefix", "--base-arch", *prompts.MODEL[1:], "--prefix-hidden", "0", "--prefix-length"]
    words = f"--prefix-length {most + 1}: rows of up to {longest} positions do not fit into {longest - 1}; at most {most}, or"
    with pytest.raises(ValueError, match=words):
        prompts.trainer(data, model=[*prefix, str(most + 1)]).get_model()
    prompts.trainer(data, model=[*prefix, str(most)]).get_model()
    prompts.trainer(data, "--tokens-per-sample", str(longest - 1), model=[*prefix, str(most + 1)]).get_model()
    with pytest.raises(ValueError, match=f"--max-target-positions 20: rows of up to {longest} positions do not fit into 20; give"):
        prompts.trainer(data, model=[*prompts.MODEL[:-1], "20"]).get_model()
