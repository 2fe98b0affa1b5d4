"""The machine that computes.

devices      device, precision, deterministic operations, memory, exclusive use of the cores
distributed  several processes that train one network together
provenance   git revision, software and hardware, as recorded with a result
"""
