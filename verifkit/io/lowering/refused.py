"""Why an operator that has no lowering rule has none, and what to do: one sentence each."""

from __future__ import annotations

from collections.abc import Mapping

from verifkit.io.lowering.graph import OnnxNode

_STEP = "it jumps, and no bound method here has a rule for that: remove it, or put a continuous function in its place"
_HEAD = "it yields the place of an entry, not a score: end the model before it, and ask about the scores"
_TEST = "it yields true or false, not a number: end the model before it, and ask about the numbers that it compares"
_QUANTISED = "it computes with rounded integers: export the model in single precision, before quantisation"
_CONTROL = "control flow is not lowered: export the model with its branches fixed and its loops unrolled"
_RANDOM = "its result is random: export the model in evaluation mode"
_RECURRENT = "recurrent layers are not lowered: export the model unrolled over a fixed number of steps"
_SEQUENCE = "sequences, maps and optional values are not lowered: export the model with plain tensors"
_TEXT = "it computes with text: give the model the numbers that the text is turned into"
_SORTED = "which entries it yields depends on the network's input: end the model before it"
_DECOMPOSED = "there is no rule for this operator: export the model with MatMul, Softmax and the like in its place"


def _reasons(**operators: str) -> Mapping[str, str]:
    reasons = {
        _STEP: "Ceil Floor Round Mod Hardmax Shrink BitShift",
        _HEAD: "ArgMax ArgMin",
        _TEST: "And Or Xor Not Equal Greater GreaterOrEqual Less LessOrEqual IsNaN IsInf",
        _QUANTISED: "QuantizeLinear DequantizeLinear DynamicQuantizeLinear QLinearConv QLinearMatMul ConvInteger"
        " MatMulInteger",
        _CONTROL: "If Loop Scan",
        _RANDOM: "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Bernoulli Multinomial",
        _RECURRENT: "RNN LSTM GRU",
        _SEQUENCE: "SequenceConstruct SequenceEmpty SequenceAt SequenceInsert SequenceErase SequenceLength SequenceMap"
        " SplitToSequence ConcatFromSequence Optional OptionalGetElement OptionalHasElement ReverseSequence",
        _TEXT: "StringConcat StringNormalizer StringSplit RegexFullMatch TfIdfVectorizer",
        _SORTED: "TopK NonZero Unique Compress NonMaxSuppression",
        _DECOMPOSED: "Einsum Attention",
    }
    return {name: why for why, names in reasons.items() for name in names.split()} | operators


REASONS: Mapping[str, str] = _reasons(
    ReduceProd="it multiplies many values that depend on the network's input: write it as products of two (Mul)",
    LpNormalization="it divides by a norm that may be zero: write it with an epsilon, as LayerNormalization does",
)
"""Operators that are refused for a reason of their own."""


def reason_against(node: OnnxNode) -> str:
    """Why the node's operator has no rule."""
    if node.proto.domain not in ("", "ai.onnx"):
        return (
            "neither operators of other domains nor the model's own functions are lowered: export the model with "
            "ONNX's own operators, its functions inlined"
        )
    known = REASONS.get(node.operator)
    return known or (
        "there is no rule for this operator: write it with others, or use a verifier that only calls the model"
    )
