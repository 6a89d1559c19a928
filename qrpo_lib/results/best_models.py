"""Results of an arm's trained policies, from their run folders: the best models, as the tables report them.

Everything is computed from recorded completions. What is chosen is chosen on the split "selection", and every reported
number is from the split "reporting": means over repeats, with intervals over prompts and training seeds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from qrpo_lib.experiment import grid, jobs, kept, train
from qrpo_lib.experiment.grid import Run
from qrpo_lib.paper import published, style
from qrpo_lib.profiles.reward_traits import has_lc_reward as has_lc_reward
from qrpo_lib.profiles.reward_traits import prefers_length as prefers_length
from qrpo_lib.profiles.reward_traits import shown_data
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.results import length_bias, paper_lengths, selection
from qrpo_lib.results.statistics import Interval, difference, mean_interval, not_below_best
from qrpo_lib.runs import account
from qrpo_lib.steps import evaluation, fitting, reference_evaluation, reference_sampling, shared_references, shifts

METRICS = ("reward", "lc_reward")
_POLICIES = {"tiny": "tiny Llama", "tiny-sketches": "tiny Llama", "smollm2": "SmolLM2-135M-Instruct"}


@dataclass
class BestModels:
    """The best checkpoint of each algorithm and setting, and the one of each algorithm that is reported.

    cells: rows of `selection.scores` of both splits, with all seeds, and a column `selected`.
    evaluations: the recorded completions of these checkpoints and, as algorithms "initial" and "sft", of the policies
        that training starts from (step 0; `setting` is None). Those of what is reported, to the reporting prompts, have
        `logp` and `ref_logp`.
    last: the recorded completions of the last checkpoints of the reported runs, to the reporting prompts.
    """

    cells: pd.DataFrame
    evaluations: pd.DataFrame
    last: pd.DataFrame

    def rows(self, method: str) -> pd.DataFrame:
        """The recorded completions of the reported checkpoint of an algorithm, or of "initial", "sft"."""
        rows = self.evaluations[self.evaluations["algorithm"] == method]
        if method in ("initial", "sft"):
            return rows
        return rows[rows["setting"] == self.chosen(method)["setting"]]

    def chosen(self, algorithm: str) -> pd.Series:
        """The row of `cells` that an algorithm is reported with."""
        return self.cells[self.cells["selected"] & (self.cells["algorithm"] == algorithm)].iloc[0]

    def start(self, algorithm: str) -> str:
        """What the reported model was trained from: "sft" where its setting fine-tunes first, else "initial"."""
        return "sft" if shifts.is_tuned_first(self.chosen(algorithm)["setting"]) else "initial"

    def untrained(self, methods: Sequence[str]) -> list[str]:
        """Those of the algorithms whose reported model is the policy before training, by their labels."""
        return [
            style.ALGORITHMS[name].label
            for name in methods
            if name not in ("initial", "sft") and self.chosen(name)["step"] == 0
        ]

    def reporting_last(self, algorithm: str) -> np.ndarray:
        """Rewards on the reporting split of the last checkpoint of the reported runs: (seeds, prompts), of repeats."""
        rows = self.last[(self.last["algorithm"] == algorithm) & (self.last["split"] == "reporting")]
        return matrix(rows[rows["setting"] == self.chosen(algorithm)["setting"]], "reward")

    def reporting(self, method: str, column: str) -> np.ndarray:
        """(seeds, prompts) on the reporting split: means over repeats."""
        rows = self.rows(method)
        return matrix(rows[rows["split"] == "reporting"], column)

    @property
    def methods(self) -> list[str]:
        """Those that there are, "initial" and "sft" first."""
        return list(dict.fromkeys(self.evaluations["algorithm"]))


def matrix(rows: pd.DataFrame, column: str) -> np.ndarray:
    """Recorded completions of one checkpoint as (seeds, prompts), means over repeats, both in sorted order."""
    table = rows.pivot_table(index="seed", columns="prompt_id", values=column, aggfunc="mean")
    return table.to_numpy()


def references(profile: Profile) -> pd.DataFrame:
    """Reference completions of the held-out prompts: columns `prompt_id, reward, length`; all that were sampled."""
    path = jobs.make(profile, jobs.sampling(profile)) / reference_sampling.COMPLETIONS
    columns = ["prompt_id", "reward", "token_ids"]
    columns += ["sample_index"] if profile.reference_sampling.references == "shared" else []
    columns += ["text"] if paper_lengths.are_used(profile) else []
    frame = pd.read_parquet(path, columns=columns, filters=[("split", "in", list(evaluation.HELD_OUT))])
    if "sample_index" in frame:
        frame = shared_references.once(frame)
    frame = paper_lengths.counted(profile, frame.assign(length=frame["token_ids"].map(len)))
    return frame[["prompt_id", "reward", "length"]]


def recorded(profile: Profile, runs: Sequence[Run], text: bool = False) -> pd.DataFrame:
    """The answers of all checkpoints of these runs to the selection prompts, with `lc_reward` where the task has one
    (not code)."""
    completions = paper_lengths.evaluations(profile, runs, text)
    return _with_lc_reward(profile, completions) if has_lc_reward(profile) else completions


def reported(profile: Profile, wanted: Mapping[Run, Collection[int]], *, log_ratios: bool = False) -> pd.DataFrame:
    """The answers of these runs after these steps to the reporting prompts, made where they are missing.

    With their texts, with `lc_reward` as in `recorded`, and if asked for with `logp` and `ref_logp` by the trainer.
    """
    train.report(profile, wanted, log_ratios=log_ratios)
    completions = paper_lengths.reports(profile, wanted, text=True, log_ratios=log_ratios)
    return _with_lc_reward(profile, completions) if has_lc_reward(profile) else completions


def best_checkpoints(profile: Profile, algorithms: Sequence[str] | None = None) -> pd.DataFrame:
    """Of each (or only these) algorithm and setting the best checkpoint of the grid, by the grid's seeds."""
    runs = [run for run in _grid(profile, algorithms) if run.step(profile).folder.is_dir()]
    scores = selection.scores(recorded(profile, runs or _grid(profile, algorithms)))
    limit = profile.evaluation.max_mean_length
    if not paper_lengths.are_used(profile):
        return selection.best_of_settings(scores, limit)
    # The authors ask for short answers to the reporting prompts too. These are answered by what is chosen without them;
    # what then falls out makes room for the next best that was kept.
    of_cells: dict[tuple, list[Run]] = {}
    for run in runs:
        of_cells.setdefault(_cell(run), []).append(run)
    there = {(*cell, step) for cell, some in of_cells.items() for step in kept.steps(profile, some[0])}
    scores = scores[pd.MultiIndex.from_frame(scores[selection.CHECKPOINT]).isin(list(there))]
    while True:
        best = selection.best_of_settings(scores, limit, evaluation.HELD_OUT)
        answered = set(scores.loc[scores["split"] == "reporting", selection.CHECKPOINT].itertuples(index=False))
        wanted: dict[Run, set[int]] = {}
        for row in best[selection.CHECKPOINT].itertuples(index=False):
            for run in of_cells[tuple(row)[:-1]] if row not in answered else []:
                wanted.setdefault(run, set()).add(int(row.step))
        if not wanted:
            return best
        scores = pd.concat([scores, selection.scores(reported(profile, wanted))], ignore_index=True)


def further_runs(profile: Profile, best: pd.DataFrame | None = None) -> list[Run]:
    """The best cell of each algorithm and setting with all seeds."""
    best = best_checkpoints(profile) if best is None else best
    cells = {tuple(row) for row in best[selection.CELL].itertuples(index=False)}
    known = [run for run in grid.grid(profile) if (run.algorithm, run.setting, run.beta, run.learning_rate) in cells]
    return grid.more_seeds(profile, dict.fromkeys(grid.with_seed(run, profile.experiment.seeds[0]) for run in known))


def best_models(profile: Profile, algorithms: Sequence[str] | None = None) -> BestModels:
    """The models that the tables report. The checkpoint of a cell is chosen with the grid's seeds; between settings the
    paper's rule chooses with all seeds. The models must be trained (`experiments/sweep`).

    algorithms: those that are wanted, all of the profile's by default.
    """
    best = best_checkpoints(profile, algorithms)
    further = further_runs(profile, best)
    runs = [run for run in further if run.step(profile).folder.is_dir()]
    steps = {tuple(row[:-1]): int(row[-1]) for row in best[selection.CHECKPOINT].itertuples(index=False)}
    chosen_rows = recorded(profile, runs or further).merge(best[selection.CHECKPOINT], on=selection.CHECKPOINT)
    answers = reported(profile, {run: {steps[_cell(run)]} for run in runs})
    cells = selection.scores(pd.concat([chosen_rows, answers], ignore_index=True))
    chosen = []
    for _, of_algorithm in cells[cells["split"] == "selection"].groupby("algorithm", sort=False):
        chosen.append(selection.papers_choice(of_algorithm)[selection.CHECKPOINT])
    marked = pd.DataFrame(chosen).assign(selected=True)
    cells = cells.merge(marked, on=selection.CHECKPOINT, how="left")
    cells["selected"] = cells["selected"].eq(True)
    of_chosen = {tuple(row[:-1]) for row in marked[selection.CHECKPOINT].itertuples(index=False)}
    shown = [run for run in runs if _cell(run) in of_chosen]
    last = reported(profile, {run: {fitting.last_step(run.training(profile).folder)} for run in shown})
    # Log-ratios of what is shown with them alone: KL in the tables, Figure 4.
    exact = reported(profile, {run: {steps[_cell(run)]} for run in shown}, log_ratios=True)
    is_shown = pd.MultiIndex.from_frame(answers[selection.CELL]).isin(list(of_chosen))
    others = [rows.drop(columns="logp") for rows in (chosen_rows, answers[~is_shown])]
    return BestModels(cells, pd.concat([_starts(profile), *others, exact], ignore_index=True), last)


def gain_rows(best: BestModels) -> pd.DataFrame:
    """The reward that each reported model gained over the policy it was trained from, and the last of the same runs.

    Columns `method, setting, start, step, trained, gain, low, high, last_step, last_gain, last_low, last_high, prompts,
    seeds`, on the reporting split. A model that is selected at step 0 is not trained: its gain is 0 by construction.
    """
    rows = []
    for method in (name for name in best.methods if name not in ("initial", "sft")):
        chosen, start = best.chosen(method), best.reporting(best.start(method), "reward")
        gain = difference(best.reporting(method, "reward"), start)
        last = difference(best.reporting_last(method), start)
        of_method = best.last[best.last["algorithm"] == method]
        last_step = of_method.loc[of_method["setting"] == chosen["setting"], "step"].max()
        row = {"method": method, "setting": chosen["setting"], "start": best.start(method), "step": chosen["step"]}
        row |= {"trained": bool(chosen["step"] > 0), "gain": gain.mean, "low": gain.low, "high": gain.high}
        row |= {"last_step": last_step, "last_gain": last.mean, "last_low": last.low, "last_high": last.high}
        rows.append(row | {"prompts": gain.n, "seeds": gain.seeds})
    return pd.DataFrame(rows)


def dpo_gain(profile: Profile) -> float | None:
    """What DPO's reported model gained in reward over the policy it was trained from, on the reporting split: the scale
    of the smallest effects that matter in chat (claims.toml). DPO is trained where it is missing; None without DPO."""
    if "dpo" not in profile.experiment.algorithms:
        return None
    train.train(profile, _grid(profile, ["dpo"]), "DPO's grid")
    train.train(profile, further_runs(profile, best_checkpoints(profile, ["dpo"])), "DPO's further seeds")
    return float(gain_rows(best_models(profile, ["dpo"]))["gain"].item())


def table_rows(profile: Profile, best: BestModels) -> pd.DataFrame:
    """Rows of Table 3 (or, with the reward as a pass rate, Table 2): reporting means, standard errors, bold.

    Bold is the best mean and what it is not significantly better than (`statistics.not_below_best`).
    """
    metrics = [name for name in METRICS if name in best.evaluations]
    rows = {
        method: {"model": model_label(profile), "dataset": shown_data(profile), "method": method}
        for method in best.methods
    }
    for metric in metrics:
        values = {method: best.reporting(method, metric) for method in best.methods}
        bold = not_below_best(values)
        for method, of_method in values.items():
            interval = mean_interval(of_method)
            rows[method] |= {metric: interval.mean, f"{metric}_error": interval.error, f"{metric}_bold": method in bold}
            rows[method] |= {f"{metric}_low": interval.low, f"{metric}_high": interval.high}
            rows[method] |= {"prompts": interval.n, "seeds": interval.seeds}
    for method in best.methods:
        rows[method]["trained"] = not best.untrained([method])
        rows[method]["length"] = best.reporting(method, "length").mean()
        rows[method]["kl"] = best.reporting(method, "logp").mean() - best.reporting(method, "ref_logp").mean()
    return pd.DataFrame(rows.values())


def appendix_rows(best: BestModels) -> pd.DataFrame:
    """Rows of a table of App. M: of each algorithm and setting valid and test scores of its best checkpoint."""
    metrics = [name for name in METRICS if name in best.evaluations]
    starts = best.evaluations[best.evaluations["algorithm"].isin(["initial", "sft"])]
    keys = ["algorithm", "step"]
    cells = [selection.scores(starts, keys).assign(selected=False), best.cells]
    rows = []
    for _, pair in pd.concat(cells).groupby(["algorithm", "setting"], sort=False, dropna=False):
        valid, test = (pair[pair["split"] == split].iloc[0] for split in ("selection", "reporting"))
        row = {"method": valid["algorithm"], "setting": valid.get("setting"), "selected": bool(valid["selected"])}
        row |= {name: valid.get(name) for name in ("beta", "learning_rate", "step")}
        for metric in metrics:
            row |= {f"{metric}_valid": valid[metric], f"{metric}_valid_error": valid[f"{metric}_std"]}
            row |= {f"{metric}_test": test[metric], f"{metric}_test_error": test[f"{metric}_std"]}
        rows.append(row)
    return pd.DataFrame(rows)


def compare(best: BestModels, first: str, second: str, column: str = "reward") -> Interval:
    """Paired difference, first - second, of two methods' reported models on the reporting split, with its interval.

    Parameters
    ----------
    best: the reported models with their answers.
    first, second: names of methods, such as "qrpo" or "sft".
    column: of the answers, in whose unit the difference is.
    """
    return difference(best.reporting(first, column), best.reporting(second, column))


def initial_reward(profile: Profile) -> float:
    """The initial policy's mean reward on the reporting prompts."""
    starts = _starts(profile)
    return float(matrix(starts[(starts["algorithm"] == "initial") & (starts["split"] == "reporting")], "reward").mean())


def length_points(profile: Profile, best: BestModels) -> dict[str, pd.DataFrame]:
    """Figure 4's points of each algorithm's reported model: `length_bias.points`.

    All answers to the reporting prompts, or as the profile says the paper's: the first to each.
    """
    points = {}
    for method in profile.experiment.algorithms:
        rows = best.rows(method)
        rows = rows[rows["split"] == "reporting"]
        if profile.evaluation.figure_4 == "paper":
            rows = rows[rows["repeat"] == 0]
        points[method] = length_bias.points(rows, references(profile.with_training(setting=rows["setting"].iloc[0])))
    return points


def length_table(points: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Spearman's rho of each algorithm with its interval; `reward_rho` is that of the true reward with length."""
    rows = []
    for name, of_policy in points.items():
        rho = length_bias.correlation(of_policy)
        row = {"method": style.ALGORITHMS[name].label, "rho": rho.mean, "low": rho.low, "high": rho.high}
        row |= {"reward_rho": length_bias.spearman(of_policy["x"].to_numpy(), of_policy["reward"].to_numpy())}
        row |= {"mean_length": of_policy["x"].mean(), "prompts": rho.n, "seeds": rho.seeds, "points": len(of_policy)}
        rows.append(row)
    return pd.DataFrame(rows)


def as_pass_rates(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of `table_rows` for Table 2: the reward in per cent."""
    rates = {f"pass_rate{suffix}": 100 * rows[f"reward{suffix}"] for suffix in ("", "_error")}
    return rows.assign(**rates, pass_rate_bold=rows["reward_bold"])


def figure_1_rows(rows: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """Rows of `table_rows` for Figure 1, `method, value, error, bold, trained`: pass rate, or LC-reward, or reward."""
    code, lc = profile.task.completions == "solution", has_lc_reward(profile)
    metric = "pass_rate" if code else "lc_reward" if lc else "reward"
    shown = as_pass_rates(rows) if code else rows
    names = {metric: "value", f"{metric}_error": "error", f"{metric}_bold": "bold"}
    return shown[["method", *names, "trained"]].rename(columns=names)


def published_figure_1_rows(profile: Profile) -> pd.DataFrame:
    """The paper's numbers for Figure 1, to be drawn beside ours: Llama on Magpie-Air for chat, Table 2 for code."""
    code = profile.task.completions == "solution"
    paper_rows = published.table("table_2" if code else "table_3")
    if not code:
        paper_rows = paper_rows[(paper_rows["model"] == "llama") & (paper_rows["dataset"] == "magpieair")]
    metric, error = ("avg_pass_percent", "std") if code else ("lc_reward", "lc_reward_std")
    paper_rows = paper_rows.rename(columns={metric: "value", error: "error"})
    title = "in the paper: " + ("Llama 8B, LeetCode (Table 2)" if code else "Llama 8B, Magpie-Air (Table 3)")
    rows = paper_rows[["method", "value", "error"]]
    return rows.assign(bold=published.bold(paper_rows["value"], paper_rows["error"]), title=title)


def model_label(profile: Profile) -> str:
    """How tables name the policy."""
    return _POLICIES.get(profile.policy.source) or profile.policy.model.rpartition("/")[2]


def _cell(run: Run) -> tuple:
    return tuple(getattr(run, name) for name in selection.CELL)


def _grid(profile: Profile, algorithms: Sequence[str] | None) -> list[Run]:
    return [run for run in grid.grid(profile) if algorithms is None or run.algorithm in algorithms]


def _with_lc_reward(profile: Profile, completions: pd.DataFrame) -> pd.DataFrame:
    parts = []
    for setting, rows in completions.groupby("setting", sort=False):
        of_setting = references(profile.with_training(setting=setting))
        parts.append(selection.with_lc_reward(rows, of_setting, each_repeat=paper_lengths.are_used(profile)))
    return pd.concat(parts)


def _starts(profile: Profile) -> pd.DataFrame:
    """Recorded completions of the initial policy and, where a setting fine-tunes first, of the fine-tuned one."""
    settings = profile.experiment.settings or [profile.training.setting]
    starts = {}
    for setting in settings:
        starts.setdefault("sft" if setting.startswith("sft-") else "initial", profile.with_training(setting=setting))
    if "initial" not in starts:  # all settings fine-tune first (code): the initial policy is shown all the same
        starts["initial"] = profile.with_training(setting=settings[0].removeprefix("sft-"))
    answered = {
        (method, seed, split): jobs.reference_answers(starts[method], seed, split)
        for method in sorted(starts)
        for seed, split in product(profile.experiment.seeds, evaluation.HELD_OUT)
    }
    train.make_all(profile, list(answered.values()), "answers before training")
    account.rests_on([task.step.folder_name for task in answered.values()])
    parts = []
    for (method, seed, _), task in answered.items():
        rows = reference_evaluation.load(task.step.folder).drop(columns="token_ids")
        rows = paper_lengths.counted(profile, rows)
        parts.append(rows.assign(algorithm=method, setting=starts[method].training.setting, seed=seed))
    frame = pd.concat(parts, ignore_index=True)
    if has_lc_reward(profile):
        frame = _with_lc_reward(profile, frame)
    return frame.assign(setting=None)
