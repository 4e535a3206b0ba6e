"""Benchmarks: `python -m bench [CASE ...]` from the root of the checkout.

Every case compares arms (implementations of one job) in interleaved rounds A B C A B C ..., so that a change
of the machine's speed meets all arms alike. Rows give the median of the rounds with the lowest and the
highest, for times and for the ratios within each round to a named baseline (baseline time / arm time: above
1 is faster than the baseline). An arm whose output is wrong is never timed.
"""
