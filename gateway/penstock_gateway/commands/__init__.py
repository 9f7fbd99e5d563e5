"""Commands that speak to a running gateway's admin API: keys, teams, tags, budgets and spend.

Read `admin_client.ask` first; each other file is one group of commands.
"""
