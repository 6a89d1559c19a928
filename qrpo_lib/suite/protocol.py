"""docs/protocol.md: the paper's protocol, the authors' code, and what each profile does; `qrpo protocol` writes it.

The items are in `qrpo_lib/paper/protocol.toml`; what a profile does is read from the profile.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

from qrpo_lib.profiles import reward_traits
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.runs.code_version import package_file

SHOWN = ("tiny", "smol", "gh200", "gh200-released")
_KEY = re.compile(r"\{(\??)([a-z0-9_.]+)\}")
_NOTHING = "–"
# What concerns chat or code alone, by its title.
_OF_CHAT = ("Length-controlled reward", "Off-policy pairs of chat", "Figure 4", "AlpacaEval 2")
_OF_CODE = ("Pairs of code",)

_HEADER = """# The protocol

Made by `qrpo protocol` from `qrpo_lib/paper/protocol.toml` and the profiles; do not edit it. A test fails when it is
stale. For every item of the paper's Appendix L: what the paper says, what the authors' public code does where it says
more or something else, what each profile here does, and why.

The authors' code is [CLAIRE-Labo/quantile-reward-policy-optimization]({repository}/tree/{commit}) at commit
`{short}`, which they call a refactored version of what they ran. None of `gh200` has been run here.
"""


def content() -> dict[str, Any]:
    """The items and where the authors' code is."""
    return tomllib.loads(package_file("protocol.toml").read_text(encoding="utf-8"))


def page() -> str:
    """docs/protocol.md."""
    known = content()
    parts = [_HEADER.format(**known, short=known["commit"][:7]).strip()]
    section = None
    for item in known["items"]:
        if item["section"] != section:
            section = item["section"]
            parts.append(f"## {'Appendix' if section.startswith('L') else 'Section'} {section}")
        parts.append(_item(item, known))
    return "\n\n".join(parts) + "\n"


def _item(item: dict[str, str], known: dict[str, Any]) -> str:
    lines = [f"### {item['title']}", ""]
    lines.append(f"- **Paper.** {item['paper']}")
    lines.append(f"- **Authors' code.** {item['code']} {_files(item['file'], known)}")
    lines += [f"- **{name}.** {told}" for name, told in _told(item).items()]
    lines.append(f"- **Why.** {item['why']}")
    return "\n".join(lines)


def _files(names: str, code: dict[str, Any]) -> str:
    """Links to files of the authors; a name without folder is in the folder of the one before."""
    links, folder = [], ""
    for name in names.split(", "):
        path = name if "/" in name or not folder else f"{folder}/{name}"
        folder = path.rpartition("/")[0]
        kind = "tree" if path.endswith("/") else "blob"
        links.append(f"[{path.rstrip('/').rpartition('/')[2]}]({code['repository']}/{kind}/{code['commit']}/{path})")
    return f"({', '.join(links)})"


def _told(item: dict[str, str]) -> dict[str, str]:
    """What each profile does, by its name."""
    told = {name: _of_profile(name, item) for name in SHOWN}
    if told["gh200-released"] == told["gh200"]:
        del told["gh200-released"]  # it differs from gh200 in where references are from
    return told


def _of_profile(name: str, item: dict[str, str]) -> str:
    by_told: dict[str, list[str]] = {}
    arms = profiles.arms(name)
    for arm in arms:
        by_told.setdefault(shown(profiles.load(name, arm), item), []).append(arm)
    if len(by_told) == 1:
        return next(iter(by_told))
    return "; ".join(f"{told} ({', '.join(some)})" for told, some in by_told.items())


def shown(profile: Profile, item: dict[str, str]) -> str:
    """What one arm of a profile does of an item: the first alternative whose settings it has."""
    chat = reward_traits.has_lc_reward(profile)
    if item["title"] in (_OF_CODE if chat else _OF_CHAT):
        return _NOTHING
    for alternative in item["here"].split(" | "):
        values = {key: _value(profile, key) for _, key in _KEY.findall(alternative)}
        if None not in values.values():
            return _KEY.sub(lambda match, of=values: "" if match[1] else _text(of[match[2]]), alternative)
    raise ValueError(f"protocol.toml, {item['title']}: no alternative fits {profile.label}.")


def _value(profile: Profile, key: str) -> Any:
    """A setting by its dotted name, None where the profile has none; of several studies the first."""
    value: Any = profile
    for part in key.split("."):
        if isinstance(value, dict):
            value = value.get(part)
        else:
            value = value[0] if isinstance(value, list) and value else value
            value = getattr(value, part, None)
        if value is None or value == []:
            return None
    return value


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    return f"`{text}`" if text.startswith("<") or re.fullmatch(r"[0-9a-f]{40}", text) else text
