import json

import pytest
import torch

from qrpo_lib import chat_template, pretrained

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    try:
        pretrained.check_wheels()
    except pretrained.MissingWheelError as error:
        pytest.skip(str(error))
    made = tmp_path_factory.mktemp("smollm2")
    pretrained.convert_smollm2(made)
    return made


def test_saved_model_is_the_one_in_the_wheel(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = pretrained.gguf_file()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([chat_template.prompt_ids(tokenizer, "What should I pack for a rainy weekend?")])
    with torch.no_grad():
        ours = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
        theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)(ids).logits
    assert ours.isfinite().all()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_tokenizer_and_generation_settings(folder):
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.eos_token == tokenizer.pad_token == "<|im_end|>"
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    text = tokenizer.decode(chat_template.prompt_ids(tokenizer, "Hello"))
    assert text.endswith("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")
    assert text.count("<|im_start|>") == 3  # the template's own system prompt, the user, the assistant
    generation = GenerationConfig.from_pretrained(folder)
    config = AutoConfig.from_pretrained(folder)
    assert {end} == {tokenizer.eos_token_id, config.eos_token_id, generation.eos_token_id}
    assert {end} == {tokenizer.pad_token_id, config.pad_token_id, generation.pad_token_id}
    saved = json.loads((folder / "generation_config.json").read_text())
    assert set(saved) <= {"_from_model_config", "eos_token_id", "pad_token_id", "transformers_version"}
