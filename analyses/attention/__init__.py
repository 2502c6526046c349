"""Where does each head look, what does it take from there, and which label has it earned?

1. `look` runs a prompt once and keeps every head's attention, plain and weighted by the value: the
   attention times the length of what the head would write from that position, |v W_O|. A long
   prompt is max-pooled to a small map a head, layer by layer; `one_head` keeps one head in full.
2. `score_heads` reads how heads attend on random sequences that repeat, "[BOS] A A", and on the
   same with another first half, "[BOS] B A": to the previous token, the current one, the first
   position, the earlier occurrence of the token (duplicate token), the token after that
   (induction), and tokens further behind it ("match + 2" and so on).
3. Each score has its null. Of what depends on the repeat (duplicate, induction, match): the same
   head at the same places of the same second half, where nothing repeats. So a head that looks back
   a fixed distance has no induction score. Of what depends on the place (previous, current, first):
   the mean attention to any other position that the query sees, on sequences without repeats.
4. The excess over the null is tested over rows by sign flips, one-sided, and corrected over all
   heads and scores by the largest studentised excess of any (maximum statistic).
5. A label needs both: a corrected p of at most 0.05, and an excess of at least `least` (0.3 of the
   head's attention if nothing else is asked). A head may have several labels, and most have none.
6. `verify_heads` takes the attention to the target away from the labelled heads and measures how
   much worse the second half is predicted, against as many random heads without the label.
7. `repeat_carriers` asks without labels: one head at a time writes what it writes where nothing
   repeats, and what the model loses by that is what the head carries, wherever it looks.

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (induction heads);
Olsson et al. 2022, arXiv 2209.11895 (repeated random sequences); Kobayashi et al. 2020, arXiv
2004.10102 (attention weighted by the norm of the value); Westfall & Young 1993 (maximum statistic).

Units and sign: attention and scores are shares from 0 to 1; the excess is score minus null. Entropy
is relative to a uniform look at all visible positions, 0 for one position and 1 for uniform.
Value-weighted attention is in the units of the residual stream. Losses are in nats a token.

Limits: a label says where a head looks on random sequences, not what it does there; that is what
`verify_heads` asks. A model that repeats by other means than looking at the token after the earlier
occurrence has no induction head in this sense, though `repeat_carriers` finds what it uses. Random
tokens may be unlike anything that the model was trained on: `tokens` and `length` choose others.
What has no room in the context is said to be not measurable. Where attention's output is normalised
before it is added, |v W_O| is its length before that norm, and biases are no part of it.
"""

from analyses.attention.carriers import RepeatCarriers, repeat_carriers
from analyses.attention.head_scores import LEAST, HeadScores
from analyses.attention.patterns import KINDS, AttentionPatterns, HeadAttention, look, one_head
from analyses.attention.scoring import score_heads, scoring_seconds
from analyses.attention.sequences import usual_length, usual_tokens
from analyses.attention.verification import HeadsVerified, verify_heads

__all__ = [
    "KINDS",
    "LEAST",
    "AttentionPatterns",
    "HeadAttention",
    "HeadScores",
    "HeadsVerified",
    "RepeatCarriers",
    "look",
    "one_head",
    "repeat_carriers",
    "score_heads",
    "scoring_seconds",
    "usual_length",
    "usual_tokens",
    "verify_heads",
]
