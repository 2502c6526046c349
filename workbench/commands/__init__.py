"""What the commands of `workbench` share: options, the subject and its pairs, and the terminal.

The commands themselves are in `workbench.__main__`, which is the only one to import analyses.
"""
