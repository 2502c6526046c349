"""Models whose answer is known by construction: every weight that acts was put there.

1. `two_steps`: one token is copied in two steps, whose shares of the logit are 0.25 and 0.75.
2. `known_circuits`: an induction pair and a name mover, whose every edge is known.
3. `known_units`: neurons that fire at one word, at one place, or at one word after another.
4. `known_texts`: neurons whose best text is known.
5. `known_features`: more directions than dimensions, which words are sparse sums of.
6. `known_dictionary`: dictionaries whose every latent is known.
7. `known_translator`: a last layer that only turns the stream.
8. `known_clusters`, `known_groups`: neurons for a concept in chosen places, and groups of neurons.
9. `known_bottleneck`: a network that is too narrow in one place, and one that is nowhere.
10. `modular_adder`: addition in a cyclic group by waves of chosen frequencies.
11. `known_curves`: training curves with chosen drops and phases.
12. `unplanted`: every parameter random, so that there is nothing to be found.

`word_level` makes what these share: a tokenizer of whole words, and a small bridge. What analyses
find in them is compared with what was planted: by tests, and by `workbench selftest` on the machine
of whoever asks.

Limits: these models are tiny, and most have no norms, which makes their answers exact; what holds
here may still fail where a large model bends.
"""
