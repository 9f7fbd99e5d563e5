"""Getting outcomes: a chosen sample of prompts through several arms, within a budget, graded and written down.

Read `penstock_training.collect.runner.collect_outcomes` first.
"""
