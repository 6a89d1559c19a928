"""Errors that the user can fix: one sentence that says what is wrong and what to do."""

IS_INFRASTRUCTURE = True  # moves results around (`qrpo_lib.runs.code_version`)


class InputError(ValueError):
    """Something that the suite was given cannot be used. A notebook shows the sentence alone, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]
