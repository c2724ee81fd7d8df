"""Valid logs and submissions, each broken (or left whole) in one way, with what a checker must say about it.

The labels are taken from the rules' text and from the official tools' code, and were committed before the project's own
checker was run on any of them. `python -m tests.compliance.mutations` prints the table with what each checker says.
"""
