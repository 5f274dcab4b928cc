"""Chaos runs: real processes and servers, a recorded seed, faults, and a check that nothing was lost.

`./run chaos` and the tests call it. A seed goes plan (what will happen, from the seed alone) -> seed -> load
and havoc beside each other -> heal -> rest -> evidence -> rules.
"""
