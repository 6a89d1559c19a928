"""The README's lines of results: each number and each verdict is that of the committed figures."""

import json
import re

import pytest

from qrpo_lib.paper import claims
from qrpo_lib.runs import paths

ROOT = paths.PACKAGE.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = " ".join(README.split("## What holds and what does not\n")[1].split("\n## ")[0].split())
ALGORITHMS = ("dpo", "simpo", "rebel", "qrpo")
# What each line says of which claims; a claim is named by the folder of its verdict and its id.
LINES = {
    "*Theory holds*": {
        "Table 4": ("theory/table-4", "supported"),
        "the uniform quantile": ("theory/quantile-reward-uniform", "supported"),
        "thresholds": ("theory/share-above-threshold", "supported"),
        "best-of-N": ("theory/approximates-best-of-n", "supported"),
        "k rounds": ("theory/k-rounds", "supported"),
        "the trainer reaches the closed form": ("enumerated/trainer-reaches-closed-form", "supported"),
    },
    "*Theory that does not*": {
        "KL falls quadratically (faster than claimed)": ("theory/kl-linear", "contradicted"),
        "Eq. 17 is far off at the usual betas": ("theory/eq-17-at-usual-betas", "contradicted"),
        "a pass rate of 20 tests is not nearly continuous": ("theory/many-values-continuous", "contradicted"),
        "rounds with renewed quantiles go further than one stage": ("theory/k-rounds-renewed", "contradicted"),
    },
    "*Chat*": {
        "at the largest beta off-policy beats offline training": (
            "tiny/chat/off-policy-best-at-large-beta",
            "supported",
        ),
        "off-policy, more reference rewards help": ("tiny/chat/scales-off-policy", "supported"),
        "Undecided: which algorithm is best": ("tiny/chat/qrpo-first-or-ties", "undecided"),
        "log": ("tiny/chat/log-not-better", "undecided"),
        "rounds": ("tiny/chat/rounds-equal-one-stage", "undecided"),
        "online data": ("tiny/chat/online-beats-offline", "undecided"),
        "Contradicted: completions rise and fall as the thresholds say": (
            "tiny/chat/chosen-rise-above-threshold",
            "contradicted",
        ),
        "all algorithms gain": [(f"tiny/chat/{name}-raises-reward", "supported") for name in ALGORITHMS],
    },
    "*Code*": {
        "QRPO gains": ("tiny/code/qrpo-raises-reward", "supported"),
        "is first or ties": ("tiny/code/qrpo-first-or-ties", "supported"),
        "REBEL and DPO gain too": [(f"tiny/code/{name}-raises-reward", "supported") for name in ("dpo", "rebel")],
        "That SimPO falls short is contradicted": ("tiny/code/simpo-falls-short-on-code", "contradicted"),
    },
    "*Length bias*": {
        "not testable where no algorithm is biased": ("tiny/chat/less-length-bias", "not testable"),
        "for a reward that prefers length the method finds it in all": (
            "tiny/chat-long/length-bias-detected",
            "supported",
        ),
    },
    "*Over five initial policies*": {
        "all raise the chat reward": [(f"tiny-full/chat/{name}-raises-reward", "supported") for name in ALGORITHMS],
        "QRPO the pass rate": ("tiny-full/code/qrpo-raises-reward", "supported"),
        "length bias: contradicted": ("tiny-full/chat/less-length-bias", "contradicted"),
        "its conjectured cause supported": (
            "tiny-full/chat-annotated-length/robust-reward-is-lost-in-preferences",
            "supported",
        ),
        "thresholds: contradicted": ("tiny-full/chat/chosen-rise-above-threshold", "contradicted"),
        "much stays undecided": ("tiny-full/chat/scales-off-policy", "undecided"),
    },
    "*Beyond the paper*": {
        "raw rewards with an estimated Z": ("tiny-beyond/chat/estimated-z-trains-as-well", "supported"),
        "DRO, A*-PO": ("tiny-beyond/chat/values-train-as-well", "supported"),
        "KTO, IPO and RPO train as well as QRPO": ("tiny-beyond/chat/qrpo-first-or-ties-relatives", "supported"),
        "over five DRO and A*-PO do": ("tiny-full-beyond/chat/values-train-as-well", "supported"),
        "the others are undecided": [
            (f"tiny-full-beyond/chat/{name}", "undecided")
            for name in ("estimated-z-trains-as-well", "qrpo-first-or-ties-relatives")
        ],
        "GRPO and RLOO gain more from as many samples": (
            "tiny-full-beyond/chat/online-qrpo-keeps-up-with-policy-gradients",
            "contradicted",
        ),
    },
}


def line_of(name):
    """One line of the list, from its name to the next one's."""
    start = RESULTS.index(name)
    return re.split(r" - \*| How far that", RESULTS[start:])[0]


def verdict(place):
    folder, _, name = place.rpartition("/")
    path = ROOT / "figures" / folder / "claims" / f"{name}.json"
    assert path.is_file(), f"{place} is not published: run `make reproduce` and commit figures/"
    return json.loads(path.read_text(encoding="utf-8"))


def interval(place, name, digits, scale=1):
    value = verdict(place)["values"][name]
    estimate, low, high = (f"{value[end] * scale:.{digits}f}" for end in ("estimate", "low", "high"))
    return f"{estimate} [{low}, {high}]"


def numbers():
    """The README's sentences with numbers, as the committed verdicts have them."""
    gains = [verdict(f"tiny/chat/{name}-raises-reward")["values"]["gain over SFT"]["estimate"] for name in ALGORITHMS]
    scaling = interval("tiny/chat/scales-off-policy", "gain by the slope", 3)
    counts = re.search(r"n = ([\d, ]+)", verdict("tiny/chat/scales-off-policy")["measured"])[1].split(",")
    code = interval("tiny/code/qrpo-raises-reward", "gain over SFT", 1, scale=100)
    points, _, ends = code.partition(" ")
    tests = re.search(r"\((\d+) tests\)", claims.get("many-values-continuous").rule)[1]
    return [
        f"all algorithms gain {min(gains):.2f} to {max(gains):.2f} over SFT",
        f"more reference rewards help ({scaling} from {counts[0].strip()} to {counts[-1].strip(' ,;')})",
        f"QRPO gains {points} points {ends} over SFT",
        f"a pass rate of {tests} tests",
    ]


@pytest.mark.parametrize("line", LINES)
def test_a_line_says_of_each_claim_what_its_verdict_is(line):
    for words, judged in LINES[line].items():
        assert words in line_of(line), words
        for place, expected in judged if isinstance(judged, list) else [judged]:
            found = verdict(place)
            assert found["verdict"] == expected, f"README says {words!r}; {place} is {found['verdict']} now"


def test_every_number_is_that_of_the_committed_results():
    rest = RESULTS
    for sentence in numbers():
        assert sentence in rest, f"README should say: {sentence}"
        rest = rest.replace(sentence, "")
    rest = re.sub(r"(?:Table|Eq\.|Figure) \d+", "", re.sub(r"\(docs/[^)]*\)", "", rest))
    assert not re.findall(r"\d[\d.]*", rest), "a number that no committed result gives"


def test_every_line_is_tested():
    assert re.findall(r"(?:^| )- (\*[^*]+\*)", RESULTS) == list(LINES)
