"""The trainer itself against closed forms, on a prompt whose completions are all enumerated.

May import training, theory, profiles and what those may import.
"""
