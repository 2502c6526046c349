"""What a lens reads of a prompt, as a result."""

from __future__ import annotations

import dataclasses
import functools
from typing import SupportsInt

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float32, Int

from analyses.logit_lens import reading_figures
from workbench.core import plots, results
from workbench.core.prompts import prompt as prompts

LOGIT, TUNED = "logit lens", "tuned lens"
_SOURCES = {
    "resid": "the residual stream",
    "attn_out": "each attention layer's output alone",
    "mlp_out": "each MLP's output alone",
}


@dataclasses.dataclass(frozen=True)
class TokenReading:
    """What a lens says of one token.

    Attributes:
        id: The token.
        text: It, as text.
        probability: 0 to 1.
        rank: How many tokens have a larger logit; 0 is the top.
        logit: Its logit.
    """

    id: int
    text: str
    probability: float
    rank: int
    logit: float


@dataclasses.dataclass(frozen=True)
class CellReading:
    """What a lens says in one place.

    Attributes:
        row: Name of the row.
        position: Of the token that is read at.
        token: That token.
        top: Its top tokens, the most probable first.
        asked: The tokens that were asked about.
        entropy: In nats.
        divergence: KL(final output || lens), in nats.
        final: The model's own top token there.
    """

    row: str
    position: int
    token: str
    top: tuple[TokenReading, ...]
    asked: tuple[TokenReading, ...]
    entropy: float
    divergence: float
    final: str


@dataclasses.dataclass(frozen=True)
class LensReading(results.Result):
    """What a lens reads at each row and position of a prompt.

    Attributes:
        prompt: The prompt.
        source: "resid", "attn_out" or "mlp_out".
        norm: "own", or "final" where the norm's scale is that of the final stream.
        lens: "logit lens" or "tuned lens".
        rows: Names of the rows: the embedding and every layer, or the layers.
        top_ids: The tokens with the largest logits, largest first.
        top_probabilities: Their probabilities.
        top_logits: Their logits.
        entropy: Of all tokens' probabilities, in nats.
        divergence: KL(final output || lens), in nats.
        asked: The tokens that were asked about.
        asked_probabilities: Probability of each.
        asked_ranks: How many tokens have a larger logit.
        asked_logits: Logit of each.
        final_ids: The model's own top token at each position.
        listed: Every token that is named above, ascending.
        listed_texts: These as text.
    """

    prompt: prompts.Prompt
    source: str
    norm: str
    lens: str
    rows: tuple[str, ...]
    top_ids: Int[np.ndarray, "row position k"]
    top_probabilities: Float32[np.ndarray, "row position k"]
    top_logits: Float32[np.ndarray, "row position k"]
    entropy: Float32[np.ndarray, "row position"]
    divergence: Float32[np.ndarray, "row position"]
    asked: tuple[int, ...]
    asked_probabilities: Float32[np.ndarray, "row position token"]
    asked_ranks: Int[np.ndarray, "row position token"]
    asked_logits: Float32[np.ndarray, "row position token"]
    final_ids: Int[np.ndarray, " position"]
    listed: Int[np.ndarray, " listed"]
    listed_texts: tuple[str, ...]

    @functools.cached_property
    def _texts(self) -> dict[int, str]:
        return dict(zip(self.listed.tolist(), self.listed_texts, strict=True))

    def text_of(self, token: SupportsInt) -> str:
        """Text of a token that this reading names."""
        return self._texts[int(token)]

    def row(self, asked: int | str) -> int:
        """Number of a row, given its name or a number that may count from the end.

        Raises:
            ValueError: If there is no such row.
        """
        if isinstance(asked, str) and asked in self.rows:
            return self.rows.index(asked)
        if isinstance(asked, int) and -len(self.rows) <= asked < len(self.rows):
            return asked % len(self.rows)
        raise ValueError(f"there is no row {asked!r}; expected one of {', '.join(self.rows)}")

    def at(self, row: int | str, position: int) -> CellReading:
        """What is read in one place.

        Args:
            row: Its name, or its number.
            position: May count from the end.

        Returns:
            Top tokens, asked tokens, entropy and KL divergence.

        Raises:
            ValueError: If there is no such row or position.
        """
        cell = (self.row(row), self.prompt.position(position))
        top = zip(
            self.top_ids[cell], self.top_probabilities[cell], self.top_logits[cell], strict=True
        )
        asked = zip(
            self.asked,
            self.asked_probabilities[cell],
            self.asked_ranks[cell],
            self.asked_logits[cell],
            strict=True,
        )
        return CellReading(
            row=self.rows[cell[0]],
            position=cell[1],
            token=self.prompt.tokens[cell[1]],
            top=tuple(
                TokenReading(int(i), self.text_of(i), float(p), place, float(logit))
                for place, (i, p, logit) in enumerate(top)
            ),
            asked=tuple(
                TokenReading(i, self.text_of(i), float(p), int(rank), float(logit))
                for i, p, rank, logit in asked
            ),
            entropy=float(self.entropy[cell]),
            divergence=float(self.divergence[cell]),
            final=self.text_of(self.final_ids[cell[1]]),
        )

    def settled(self, position: int) -> int | None:
        """From which row on the top token is the model's own, up to the last row.

        Args:
            position: May count from the end.

        Returns:
            The number of the row; None where even the last row has another top token.
        """
        at = self.prompt.position(position)
        other = np.flatnonzero(self.top_ids[:, at, 0] != self.final_ids[at])
        first = int(other[-1]) + 1 if len(other) else 0
        return first if first < len(self.rows) else None

    def to_frame(self) -> pd.DataFrame:
        """One row a row of the lens, a position and a token: the top ones, and those asked for."""
        rows, width, k = self.top_ids.shape
        tops = pd.DataFrame(
            {
                "row": np.repeat(np.array(self.rows), width * k),
                "position": np.tile(np.repeat(np.arange(width), k), rows),
                "token": np.tile(np.repeat(np.array(self.prompt.tokens), k), rows),
                "of": "top",
                "predicted": [self.text_of(i) for i in self.top_ids.ravel()],
                "id": self.top_ids.ravel(),
                "probability": self.top_probabilities.ravel(),
                "rank": np.tile(np.arange(k), rows * width),
                "logit": self.top_logits.ravel(),
                "entropy": np.repeat(self.entropy.ravel(), k),
                "kl": np.repeat(self.divergence.ravel(), k),
            }
        )
        n = len(self.asked)
        asked = pd.DataFrame(
            {
                "row": np.repeat(np.array(self.rows), width * n),
                "position": np.tile(np.repeat(np.arange(width), n), rows),
                "token": np.tile(np.repeat(np.array(self.prompt.tokens), n), rows),
                "of": "asked",
                "predicted": [self.text_of(i) for i in self.asked] * (rows * width),
                "id": np.tile(np.array(self.asked, dtype=np.int64), rows * width),
                "probability": self.asked_probabilities.ravel(),
                "rank": self.asked_ranks.ravel(),
                "logit": self.asked_logits.ravel(),
                "entropy": np.repeat(self.entropy.ravel(), n),
                "kl": np.repeat(self.divergence.ravel(), n),
            }
        )
        return pd.concat([tops, asked], ignore_index=True) if n else tops

    def figure(
        self,
        *,
        colour: str = "probability",
        token: int = 0,
        positions: tuple[int, int] | None = None,
        selected: plots.Cell | None = None,
    ) -> go.Figure:
        """Rows by positions with the top token written in each cell.

        Args:
            colour: "probability" of that token, "entropy", "kl", or "rank" of an asked token.
            token: Which of the asked tokens' ranks, by its place among them.
            positions: First position that is drawn and the one after the last; the last few of a
                long prompt if not given.
            selected: Cell (row, column as drawn) to outline.

        Returns:
            The heat map, every cell clickable.

        Raises:
            ValueError: If the colour or the window does not exist.
        """
        return reading_figures.grid(
            self, colour=colour, token=token, positions=positions, selected=selected
        )

    def curves(self, position: int = -1, *, value: str = "rank") -> go.Figure:
        """The asked tokens over the rows at one position.

        Args:
            position: May count from the end.
            value: "rank", "probability" or "logit".

        Returns:
            One curve a token.

        Raises:
            ValueError: If no token was asked for, or the value or the position does not exist.
        """
        return reading_figures.curves(self, position, value)

    def summary(self) -> str:
        """Where the last position's answer becomes the top token, and how near each row comes."""
        last = len(self.prompt) - 1
        final, first = self.text_of(self.final_ids[last]), self.settled(last)
        where = (
            "is not what the last row has at its top"
            if first is None
            else "is at the top throughout"
            if first == 0
            else f"is at the top from {self.rows[first]} on, and not below it"
        )
        share = (self.top_ids[:, :, 0] == self.final_ids).mean(1)
        rows = ", ".join(
            f"{name} {kl:.2f} ({part:.0%})"
            for name, kl, part in zip(self.rows, self.divergence.mean(1), share, strict=True)
        )
        asked = "".join(
            f" {token.text!r} at the last position goes from rank {first.rank:,} "
            f"(probability {first.probability:.2g}) to rank {token.rank:,} "
            f"({token.probability:.2g})."
            for first, token in zip(self.at(0, last).asked, self.at(-1, last).asked, strict=True)
        )
        norm = "" if self.norm == "own" else ", with the final norm's scale held as it is there"
        return (
            f"{self.lens.capitalize()} on {_SOURCES[self.source]} of {self.provenance.model}{norm},"
            f" {len(self.prompt)} positions. At the last one the model says {final!r}, which "
            f"{where}.{asked} Mean KL divergence of the final output from each row in nats (share "
            f"of positions with the model's top token): {rows}. Where it is large the row is not "
            "yet in the basis that the unembedding reads, or holds something else: a top token "
            "there is no finding by itself."
        )
