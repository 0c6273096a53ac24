"""Smoothed classifiers: noise, sampling, bounds on class probabilities, and what they say about a whole run."""
