"""Models of sequences of any lengths: recordings, texts, codes."""

from __future__ import annotations

from chainrule.models.sequence_drawing import SequenceDrawing
from chainrule.models.sequence_training import SequenceTraining


class SequenceModel(SequenceTraining, SequenceDrawing):
    """A trained model of sequences of any lengths.

    A model file implements `_encode` and `_decode` (between a user's values and int32 codes), `_steps` (the conditional
    of a step), `_window`, `_shapes` and `_initialise`, `_variables`, `_outputs` (the network), `_new_state` and
    `_generate`; `_reach` where windows look further back than one step, else `_pieces`, `_chunks` and `_prime`.
    """
