"""The models: each an architecture, its parameters and the equations."""

from chainrule.models.encoder_decoder import EncoderDecoder
from chainrule.models.fvsbn import FVSBN
from chainrule.models.independent import IndependentBernoulli
from chainrule.models.made import MADE
from chainrule.models.masde import MASDE
from chainrule.models.mlp import MLPConditionals
from chainrule.models.nade import NADE
from chainrule.models.tabular import Tabular
from chainrule.models.transformer import Transformer
from chainrule.models.wavenet import WaveNet

__all__ = [
    "FVSBN",
    "MADE",
    "MASDE",
    "NADE",
    "EncoderDecoder",
    "IndependentBernoulli",
    "MLPConditionals",
    "Tabular",
    "Transformer",
    "WaveNet",
]
