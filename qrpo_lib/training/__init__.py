"""Fine-tuning and policy fitting on TRL: trainers, samples, order of batches, checkpoints, log-probabilities.

May import objective, paper and runs; knows no profile, task or step.
"""
