"""Outcomes from elsewhere: one file per format, each turning local files into rows of the outcome schema.

Nothing here reaches the network, and nothing runs code that stands in a file: pickles are refused. Read
`penstock_training.importers.formats` first, then `penstock_training.importers.routerbench` as the simplest format.
"""
