"""Measures hbone beside its equals, with their own binaries and real load tools.

Nothing here is part of the data path: it starts processes, loads them, reads `/proc`, and compares. Each
workload family is one module of `workloads/`; each thing compared is one class of `candidates.py`.
"""
