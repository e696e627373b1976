"""
The proof by killing: ``python -m tests.chaos`` a stack broken under load, and accounted for.

What is expected comes from the ledger of what was sent and from a model of the rules written down
a second time (`expectation`); nothing here imports the fold that it judges.
"""
