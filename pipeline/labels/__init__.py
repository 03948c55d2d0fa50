"""Pseudo-label optimisation: folds, noise channel, guarded choice and refined labels; numpy and scipy only."""
