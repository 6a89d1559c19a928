"""Reference rewards that are sampled before training: of the reference policy, one set a prompt, the same again."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from small_llama import EOS, llama, made_up_rows, made_up_tokenizer

from qrpo_lib import SampledReferences
from qrpo_lib.runs.errors import InputError
from qrpo_lib.training import preference_rows

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"


def length(prompts, completions, level=None):
    return [len(text.split()) + (level[i] if level else 0) for i, text in enumerate(completions)]


def rows_with_texts(count):
    rows = [dict(row, prompt="x", chosen="one", rejected="one two") for row in made_up_rows(count)]
    return [
        {n: v for n, v in row.items() if n not in ("ref_rewards", "chosen_reward", "rejected_reward")} for row in rows
    ]


def completed(rows, references):
    found = preference_rows.tokenised(rows, made_up_tokenizer(), (EOS,), max_length=None)
    references.complete(found, rows, llama().eval(), made_up_tokenizer(), name="train")
    return found.rows


def test_every_prompt_gets_its_rewards_once_and_again_the_same():
    rows = rows_with_texts(4)
    rows[3]["prompt_ids"] = rows[0]["prompt_ids"]
    references = SampledReferences(length, n=5, max_new_tokens=6, seed=3)
    found = completed(rows, references)
    assert all(len(row["ref_rewards"]) == 5 for row in found)
    assert found[0]["ref_rewards"] == found[3]["ref_rewards"]
    assert len(references.completions) == 15
    assert len({reward for _, _, reward in references.completions}) > 1
    assert [row["chosen_reward"] for row in found] == [1.0] * 4
    assert [row["rejected_reward"] for row in found] == [2.0] * 4
    again = completed(rows, SampledReferences(length, n=5, max_new_tokens=6, seed=3))
    assert [row["ref_rewards"] for row in again] == [row["ref_rewards"] for row in found]
    other = completed(rows, SampledReferences(length, n=5, max_new_tokens=6, seed=4))
    assert [row["ref_rewards"] for row in other] != [row["ref_rewards"] for row in found]


def test_completions_of_a_prompt_may_fill_several_batches():
    """Five of each of three prompts, sampled two at a time; scored at once."""
    rows, seen = rows_with_texts(3), []

    def scored(prompts, completions):
        seen.append(len(completions))
        return [float(len(text)) for text in completions]

    references = SampledReferences(scored, n=5, max_new_tokens=4, batch_size=2)
    found = completed(rows, references)
    for i, row in enumerate(found):
        assert row["ref_rewards"] == [float(len(text)) for _, text, _ in references.completions[5 * i : 5 * i + 5]]
    assert seen == [3, 3, 15]  # chosen, rejected, references


def test_columns_reach_the_reward_and_given_rewards_stay():
    rows = [row | {"level": 100 * i, "chosen_reward": -1.0} for i, row in enumerate(rows_with_texts(3))]
    found = completed(rows, SampledReferences(length, n=2, max_new_tokens=4))
    assert [row["chosen_reward"] for row in found] == [-1.0] * 3
    assert [row["rejected_reward"] for row in found] == [2.0, 102.0, 202.0]
    assert all(row["ref_rewards"][0] >= 100 * i for i, row in enumerate(found))


def test_a_computed_reward_stays_equal_to_a_given_reference():
    """0.7 is no float32: rounded alone, the reward would lie below the reference rewards that it equals."""
    rows = [row | {"reference_rewards": [0.7, 0.7]} for row in rows_with_texts(2)]
    found = completed(rows, SampledReferences(lambda prompts, completions: [0.7] * len(prompts), n=2))
    for row in found:
        assert row["chosen_reward"] == row["ref_rewards"][0] == 0.7


def test_samples_are_those_of_the_policy_at_temperature_one():
    """The share of completions that end at once is the probability of the end token after the prompt."""
    import torch

    model, prompt = llama().eval(), [5, 9]
    with torch.no_grad():
        expected = model(torch.tensor([prompt])).logits[0, -1].softmax(-1)[EOS].item()
    row = {"prompt": "x", "prompt_ids": prompt, "completion_ids": [3, EOS], "completion": "x", "reward": 0.0}

    def ended(prompts, completions):
        return [float(not text) for text in completions]

    found = preference_rows.tokenised([row], made_up_tokenizer(), (EOS,), max_length=None)
    references = SampledReferences(ended, n=4000, max_new_tokens=1, batch_size=4000)
    references.complete(found, [row], model, made_up_tokenizer(), name="train")
    share = np.mean(found.rows[0]["ref_rewards"])
    assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / 4000) + 1e-9


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"n": 0}, "n must be an integer of at least 1"),
        ({"reward_fn": 3}, "must be a function"),
        ({"reward_fn": [length, length]}, "must be a function"),
        ({"reward_fn": "nowhere"}, "MODULE:FUNC"),
        ({"engine": "sglang"}, "no sampling backend 'sglang'"),
        ({"max_new_tokens": 0}, "max_new_tokens must be an integer of at least 1"),
        ({"batch_size": True}, "batch_size must be an integer of at least 1"),
        ({"seed": "0"}, "seed must be an integer"),
        ({"seed": 2**70}, r"seed must be an integer from 0 to 2\*\*32 - 1"),
    ],
)
def test_what_cannot_be_used(arguments, said):
    with pytest.raises(InputError, match=said):
        SampledReferences(**({"reward_fn": length} | arguments))


def classifier(folder):
    """A small sequence classifier and its tokenizer, whose template is not the policy's."""
    import torch
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import LlamaForSequenceClassification

    tokenizer = made_up_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    torch.manual_seed(0)
    config = llama(num_labels=1).config
    config.pad_token_id = EOS
    model = LlamaForSequenceClassification(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.eval()


def test_a_sequence_classifier_scores_conversations(tmp_path):
    """Its own tokenizer and template write them: one pass through the model for each, by hand."""
    import torch

    from qrpo_lib.rewards.models import ChatReward

    model = classifier(tmp_path)
    rows = [{"prompt": "t7", "completion": answer} for answer in ("t5", "t9")]
    rows += [{"prompt": [{"role": "user", "content": row["prompt"]}], "completion": row["completion"]} for row in rows]
    rows = [row | {"prompt_ids": [7], "completion_ids": [5, EOS]} for row in rows]
    found = completed(rows, SampledReferences(ChatReward(tmp_path), n=2, max_new_tokens=3))
    for row, one in zip(rows, found, strict=True):
        ids = [7, int(row["completion"][1:])]
        with torch.no_grad():
            expected = model(torch.tensor([ids])).logits.item()
        assert one["reward"] == pytest.approx(expected, rel=1e-5)
    assert found[0]["reward"] == found[2]["reward"] != found[1]["reward"]
    with pytest.raises(InputError, match="reward_fn is a model"):
        SampledReferences(model)


def test_reference_completions_without_a_reward_are_refused():
    def never(prompts, completions):
        return [float("nan")] * len(prompts)

    with pytest.raises(InputError, match="no finite reward"):
        completed(rows_with_texts(2), SampledReferences(never, n=2, max_new_tokens=4))


def test_a_model_that_is_sampled_wrongly_is_refused():
    """BART's decoder counts positions from the left edge of the batch, padding included."""
    from transformers import BartConfig, BartForCausalLM

    sizes = {"d_model": 16, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 24}
    config = BartConfig(vocab_size=24, max_position_embeddings=64, is_decoder=True, init_std=0.5, **sizes)
    config.pad_token_id, config.eos_token_id, config.bos_token_id = None, EOS, None
    rows = [
        {"prompt": "x", "prompt_ids": ids, "completion_ids": [3], "completion": "x", "reward": 0.0}
        for ids in ([5], [4, 7, 9, 3, 2])
    ]
    found = preference_rows.tokenised(rows, made_up_tokenizer(), (EOS,), max_length=None)
    with pytest.raises(InputError, match="cannot be sampled from rightly"):
        SampledReferences(length, n=4, max_new_tokens=4).complete(
            found, rows, BartForCausalLM(config).eval(), made_up_tokenizer(), name="train"
        )


def test_columns_that_differ_anywhere_are_scored_apart():
    """The `repr` of a long array leaves out its middle."""
    values = np.zeros((2, 3000))
    values[1, 1500] = 1
    rows = [row | {"prompt_ids": [5], "values": one} for row, one in zip(rows_with_texts(2), values, strict=True)]

    def total(prompts, completions, values):
        return [float(one.sum()) for one in values]

    found = completed(rows, SampledReferences(total, n=2, max_new_tokens=2))
    assert [row["ref_rewards"] for row in found] == [[0, 0], [1, 1]]
    rows = [row | {"prompt_ids": [5], "values": {("a", i): i}} for i, row in enumerate(rows_with_texts(2))]
    references = SampledReferences(
        lambda completions, values: [max(one.values()) for one in values], n=2, max_new_tokens=2
    )
    assert [row["ref_rewards"] for row in completed(rows, references)] == [[0, 0], [1, 1]]


def test_texts_and_conversations_end_where_each_ends(tmp_path, monkeypatch):
    """In one set of rows: a text at the tokenizer's end of sequence, an answer at the end of a turn."""
    from small_llama import CHAT, own_trainer, tokenizer_of_words

    from qrpo_lib.experiment import your_own
    from qrpo_lib.sampling import sampler

    tokenizer, model = tokenizer_of_words(), llama()
    tokenizer.chat_template = CHAT.replace("</s>", " w2 ")
    model.generation_config.eos_token_id = [EOS, 2]
    seen, sample = [], sampler.sample

    def watched(policy, tokenizer, prompts, **settings):
        seen.append((tokenizer.eos_token, prompts))
        return sample(policy, tokenizer, prompts, **settings)

    monkeypatch.setattr(sampler, "sample", watched)
    talk = [{"role": "user", "content": "w3"}]
    rows = [
        {"prompt": "w3", "completion": "w5"},
        {"prompt": talk, "completion": [{"role": "assistant", "content": "w5"}]},
    ]
    for some in (rows, rows[::-1]):
        references = SampledReferences(lambda completions: [1.0] * len(completions), n=2, max_new_tokens=2)
        own_trainer(tmp_path, some, tokenizer, model, reference_rewards=references)
        assert [isinstance(prompt, str) for prompt, _, _ in references.completions] == [
            isinstance(row["prompt"], str) for row in some for _ in range(2)
        ]
    data = [{"prompt": prompt} for prompt in (talk, "w3", talk)]
    frame = your_own.evaluated(
        model, tokenizer, data, lambda prompts: [len(one) for one in prompts], repeats=2, max_new_tokens=2
    )
    assert frame["number"].tolist() == [0, 0, 1, 1, 2, 2]
    assert frame["reward"].tolist() == [1, 1, 2, 2, 1, 1]
    assert [end for end, _ in seen] == ["</s>", "w2"] * 3
    assert [len(prompts) for _, prompts in seen] == [1, 1, 1, 1, 1, 2]


def example_of_the_page():
    """The example of docs/your-own.md, as it is printed."""
    page = (Path(__file__).parents[2] / "docs" / "your-own.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "QRPOTrainer(" in block]
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    return code


def write_rows(folder, prompts, completions):
    rows = [{"prompt": p, "completion": c} for p, c in zip(prompts, completions, strict=True)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))


def test_the_ten_lines_of_the_page_train(tmp_path, monkeypatch):
    """With a small model in the folder of SmolLM2's name."""
    monkeypatch.chdir(tmp_path)
    llama(max_position_embeddings=300).save_pretrained(SMOLLM2)
    made_up_tokenizer().save_pretrained(SMOLLM2)
    words = " ".join(f"t{i}" for i in (4, 5, 6))
    write_rows(tmp_path, ["t7"] * 8, [words[: 2 + i % 4] for i in range(8)])
    exec(example_of_the_page(), {})
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert (tmp_path / "out" / "qrpo_run.json").is_file()


OPENINGS = ("Once upon a time", "The weather in May", "My grandmother's garden")
ENDINGS = (
    " was mild.",
    " there was a fox.",
    " is long gone, and still I think of it every day.",
    " -",
    " was full of bees.",
)
ENDINGS += (
    " I went to school.",
    " nobody knew why.",
    " it rained, then it snowed, and then it rained again for a week.",
)


@pytest.mark.slow
def test_the_ten_lines_of_the_page_train_smollm2(tmp_path, monkeypatch):
    """SmolLM2 itself, in the folder of its name: three steps, after which the loss is lower than at the reference."""
    import torch
    from transformers import AutoModelForCausalLM

    from qrpo_lib import losses
    from qrpo_lib.models import wheels

    monkeypatch.chdir(tmp_path)
    wheels.convert_smollm2(tmp_path / SMOLLM2)
    write_rows(tmp_path, [one for one in OPENINGS for _ in ENDINGS], [*ENDINGS] * len(OPENINGS))
    names = {}
    exec(example_of_the_page(), names)
    trainer = names["trainer"]
    assert trainer.state.global_step == 3
    assert len(names["references"].completions) == 8 * len(OPENINGS)
    rewards, references = (torch.tensor(trainer.train_dataset[name][:]).double() for name in ("reward", "ref_rewards"))
    before = losses.calibrated_target(rewards, references, beta=0.01).square().mean().item()
    assert trainer.evaluate(trainer.train_dataset)["eval_loss"] < before
    loaded = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (SMOLLM2, "out"))
    old, new = loaded
    assert old.keys() == new.keys()
    assert all(torch.isfinite(values).all() for values in new.values())
    assert any(not torch.equal(old[name], values) for name, values in new.items())
