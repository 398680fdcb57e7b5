"""Speed and memory of Keel beside what people use today, as ratios within one run.

    python -m benchmarks [--only NAME] [--quick] [--repeats N] [--json FILE]

A benchmark says what it compares and what it hopes for (`generating`, `one_pass`, `reading`,
`capping`, `memory`); what is measured lies in `arms/` and runs in processes of its own. The
process that prints the table imports no torch, so that it takes nothing from those it measures.
"""
