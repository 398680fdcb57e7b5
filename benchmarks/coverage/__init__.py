"""Whether Keel's intervals hold the truth and its p-values reject true nulls as often as they say.

Data with a known truth are drawn again and again, given to Keel's own functions, and counted.
"""
