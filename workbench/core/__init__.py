"""Everything that analyses stand on; no Streamlit in here.

Glossary of axes. Shape strings use these names and no others:

- batch: prompts that go through the model in one forward pass
- prompt: the contrast pairs of a data set, all of them, in their order
- position: index of a token in its prompt, 0 is the first (BOS where the tokenizer puts one)
- layer: transformer block, 0 is the first
- head: attention head within a layer
- group: key/value head within a layer (grouped-query attention has fewer of these than heads)
- d_model: width of the residual stream
- d_head: width of one head's query, key or value
- neuron: hidden unit of an MLP
- d_vocab: token of the vocabulary
- answer: one of several correct (or wrong) answers of a prompt
- cell: one entry of a result's grid, whatever its axes
- row, column: a grid as it is drawn, lowest row and leftmost column first
- point: one value of a curve or one bar
- bound: 0 is the lower end of an interval, 1 the upper
- residue: an integer modulo p
- frequency: wave number k = 1 … (p − 1)/2 of a wave over the residues
- choice: token id of one answer, correct or wrong
- query, key: position that looks, and position that is looked at, in an attention pattern
- slot, column: layer and part that is patched, and the positions at which it is
- spot: one position of one prompt that is written over
- run: a patched run of a prompt, or of all of them with one set of edges
- part: head, group, neuron, direction or latent: what of a position is patched by itself
- latent, direction: unit of a dictionary, and vector in an activation's space
- width: of an activation that is one vector a position
- sender, receiver, edge, node: components that write and read the stream, and what joins them
- pair: the pairs of residues of a task, all of them, in its order
- element: of the cyclic group that a task is addition in
- seed, setting: networks trained side by side, and what a sweep varies
- checkpoint: a kept moment of a training
- phase, bend: phases of a training, and the corners of a fitted curve
- unit: neuron or head, whichever is meant
- intervention: denoising, noising, or an ablation
- row, place, token, sampled: rows of a corpus, places in it, its tokens one after another, and
  those at which all activations are kept
- unit, k: units of a family or of a scan, and the largest (or smallest) activations kept of each
- end: an end of a unit's range, unit after unit
- example, shape: inputs of a network, and what one of them is: a vector, a sequence or an image
- channel, restart, step: of a layer or a picture; searches from different starts; steps of one
- candidate, member, iteration, listed: texts that are tried, prices of fluency, rounds, and tokens
  that are tried at a position
- axis, kept, kept_and_rest: directions in which a set of vectors varies, those of them that are
  kept, and these with all others as one
- own_and_sample: a statistic itself, and what chance gives in its place
- place, round: where units lie together, and rounds of a null (labels or units change places)
- target, held: numbers that a unit might encode, and examples that had no part in a choice
- hit, half, class: units that have a concept, halves of its examples, and right answers
- behaviour, quantity, score: what an output does for a concept and besides, and numbers of a run
- measure, variant: what is measured of a network, and ways to grow it
- matrix, singular: a weight matrix, or one head's part of it; its singular values or eigenvalues,
  largest first
- score, half: where heads look on random sequences, and halves of these
- shown, outlier: coordinates that are drawn, and those that are out of scale
- sample, set, curve: random circuits, random sets of components, and sizes of a circuit
"""
