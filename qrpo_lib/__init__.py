"""Replication suite for Quantile Reward Policy Optimization (QRPO). See README.md for the map of modules."""

__version__ = "0.1.0"
