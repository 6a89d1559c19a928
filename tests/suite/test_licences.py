"""Every package of the pinned set may be used, changed and passed on: its licence is on a list, and none is unknown."""

import re
from importlib import metadata
from pathlib import Path

import pytest

PINS = Path(__file__).parents[2] / "constraints.txt"
# Words that a permissive or weakly protective licence is known by, in the forms in which packages state it.
ALLOWED = re.compile(
    r"\b(MIT|BSD|0BSD|Apache|ISC|PSF|Python Software Foundation|MPL|Mozilla|Unlicense|Zlib|HPND|CC0|Public Domain|LGPL|"
    r"Lesser General Public|CNRI|BSL-1\.0|MIT-CMU|NCSA)\b",
    re.IGNORECASE,
)
FORBIDDEN = re.compile(r"\b(A?GPL|Affero|(?<!Lesser )General Public|proprietary|non-?commercial)", re.IGNORECASE)
# Classifiers that name no licence.
UNNAMED = {"License :: OSI Approved", "License :: DFSG approved"}
# Packages whose metadata says it in another way, with what their files say.
READ_BY_HAND = {"axe-playwright-python": "MIT"}


def pinned():
    return re.findall(r"^([A-Za-z0-9._-]+)==", PINS.read_text(encoding="utf-8"), re.MULTILINE)


def licence(name):
    """What a package says of its licence, shortest and most exact first; '' if it says nothing."""
    found = metadata.metadata(name)
    classifiers = [line for line in found.get_all("Classifier") or () if line.startswith("License ::")]
    texts = [found.get("License-Expression"), *classifiers, (found.get("License") or "").split("\n")[0]]
    return next((text for text in texts if text and text not in UNNAMED), "")


def is_free(text):
    """Whether a licence lets the suite be passed on as it is; of a choice ("MIT OR GPL") the free one is taken."""
    choices = re.split(r"\bOR\b", text)
    return any(bool(ALLOWED.search(choice)) and not FORBIDDEN.search(choice) for choice in choices)


def test_licences_of_the_pinned_packages_allow_use_and_change():
    names = pinned()
    assert len(names) > 100
    installed = {dist.metadata["Name"].lower().replace("_", "-").replace(".", "-") for dist in metadata.distributions()}
    here = [name for name in names if name.lower().replace("_", "-").replace(".", "-") in installed]
    if len(here) < len(names) / 2:
        pytest.skip("the pinned set is not installed here")
    said = {name: READ_BY_HAND.get(name) or licence(name) for name in here}
    refused = {name: text for name, text in said.items() if not is_free(text)}
    assert refused == {}


@pytest.mark.parametrize(
    ("text", "free"),
    [
        ("MIT", True),
        ("MIT OR GPL-2.0-only", True),
        ("GNU Lesser General Public License v3", True),
        ("MIT AND GPL-3.0-only", False),
        ("License :: OSI Approved :: GNU Affero General Public License v3", False),
        ("for non-commercial use", False),
        ("", False),
    ],
)
def test_a_licence_that_binds_is_seen(text, free):
    assert is_free(text) is free
