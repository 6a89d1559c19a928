"""Where policies and reward models come from: the hub and its local copies, wheels, a small Llama trained here.

May import training, sampling, profiles, theory and what those may import.
"""
