"""Evaluation: win rates with their uncertainty, length control, BLEU, behaviours, results.json."""
