"""What the event log says to people who pay: savings, reconciled spend, attempts, estimates.

Reads plain event records and returns plain numbers, text or a page; never looks at settings, stores or a running
gateway. Read `savings.savings_report` first.
"""
