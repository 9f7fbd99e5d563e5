"""Fitting and calibrating the semantic cache's decision rule from texts whose right answers are known."""
