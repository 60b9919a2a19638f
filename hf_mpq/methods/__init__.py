"""Published systems, each a short composition of registered parts."""

from . import (  # noqa: F401
    aq_bert,
    bigger_faster,
    bsq,
    channelwise,
    class_based,
    csq,
    fdq,
    ghost,
    hawq,
    hyperspherical,
    lq_nets,
    mpq,
    prune_ofa,
    q8,
    q_bert,
    sdq,
    uniform,
    vertical,
    weight_coupling,
    zeroquant,
)
