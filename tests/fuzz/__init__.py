"""Bad input of every kind, drawn by Hypothesis and out of a corpus, against everything that reads.

No exception but a sentence, nothing written outside of the folders that a call was given, nothing
executed, no request to another host (`watching`). Each crash that was found is in `corpus`.
"""
