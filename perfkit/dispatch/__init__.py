"""Prompts tokenised and batched on CPU ranks, answered by data-parallel replicas of the engine."""
