"""The settings of a whole pipeline, typed, one TOML file a profile, validated before anything runs.

May import objective, paper and runs.
"""
