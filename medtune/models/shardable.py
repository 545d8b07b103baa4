"""Quantised layers whose weights a sharding strategy can divide like any other parameter.

bitsandbytes keeps its constants on parameter classes of its own, which a strategy replaces with slices of
plain memory. Here the packed numbers are a plain parameter, and the constants, a thirtieth of them at most,
lie beside it on every rank. The numbers stay integers: a cast of a module passes them by, where bytes that
are viewed as bfloat16, as is done elsewhere, would be rounded to others.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from bitsandbytes.autograd._functions import MatmulLtState, matmul
from bitsandbytes.functional import QuantState, dequantize_4bit
from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt
from torch import Tensor, nn


class ShardableLinear(nn.Module, ABC):
    """A frozen linear layer that holds its weights packed.

    Args:
        layer: bitsandbytes' own, quantised already. Its packed numbers are shared, not copied.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight = nn.Parameter(layer.weight.data, requires_grad=False)
        self.bias = layer.bias

    @property
    def W_q(self) -> Tensor:
        """The packed weights. peft asks a layer with this name to ``dequantize``, as DoRA needs."""
        return self.weight

    def keep(self, name: str, constant: Tensor) -> None:
        """Holds a constant where the layer's device is."""
        self.register_buffer(name, constant, persistent=False)

    @abstractmethod
    def dequantize(self) -> Tensor:
        """The weights [out, in] as numbers."""

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x·Wᵀ + b."""
        return nn.functional.linear(x, self.dequantize().to(x.dtype), bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        product: Tensor = Product.apply(x, self, bias)  # type: ignore[no-untyped-call]
        return product


class ShardableLinear4bit(ShardableLinear):
    """With the results of bitsandbytes' ``Linear4bit``."""

    def __init__(self, layer: Linear4bit) -> None:
        super().__init__(layer)
        self.compute_dtype = layer.compute_dtype
        weight: Any = layer.weight
        state: QuantState = weight.quant_state
        self.settings = {name: getattr(state, name) for name in ("shape", "dtype", "blocksize", "quant_type")}
        self.keep("absmax", state.absmax)
        self.keep("code", state.code)
        self.is_nested = state.nested
        if state.nested:
            self.nested_settings = {name: getattr(state.state2, name) for name in ("dtype", "blocksize")}
            self.keep("nested_absmax", state.state2.absmax)
            self.keep("nested_code", state.state2.code)
            self.keep("offset", state.offset)

    def dequantize(self) -> Tensor:
        """The weights [out, in], in the type that they were quantised from."""
        more: Any = {**self.settings}
        if self.is_nested:
            more["state2"] = QuantState(self.nested_absmax, code=self.nested_code, **self.nested_settings)  # type: ignore[no-untyped-call]
            more["offset"] = self.offset
        state = QuantState(self.absmax, code=self.code, **more)  # type: ignore[no-untyped-call]
        weight: Tensor = dequantize_4bit(self.weight.data, state)
        return weight

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out], computed in the type of the products."""
        return super().forward(x.to(self.compute_dtype or x.dtype)).to(x.dtype)


class ShardableLinear8bit(ShardableLinear):
    """With the results of bitsandbytes' ``Linear8bitLt``."""

    def __init__(self, layer: Linear8bitLt) -> None:
        super().__init__(layer)
        self.threshold = layer.state.threshold
        # They move from the weight to the state with the first forward.
        weight: Any = layer.weight
        self.keep("scales", weight.SCB if layer.state.SCB is None else layer.state.SCB)

    def dequantize(self) -> Tensor:
        """The weights [out, in] in float32."""
        scales: Any = self.scales
        weight: Tensor = self.weight.data.float() * (scales * (1 / 127))[:, None]
        return weight

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x·Wᵀ + b, the activations rounded to 8 bits where bitsandbytes does so."""
        state = MatmulLtState()
        state.CB, state.SCB, state.threshold = self.weight.data, self.scales, self.threshold  # type: ignore[assignment]
        state.is_training, state.has_fp16_weights = self.training, False
        product: Tensor = matmul(x, self.weight, bias=bias, state=state)
        return product


class Product(torch.autograd.Function):
    """A product that keeps no weights for the backward pass but asks its layer for them again.

    bitsandbytes' own hold on to the packed tensor, whose memory a strategy takes back after the forward.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: ShardableLinear, bias: Tensor | None) -> Tensor:
        """[..., in] to [..., out]."""
        ctx.layer = layer
        return layer.product(x, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of the input; weights and bias are frozen."""
        (gradient,) = gradients
        return gradient @ ctx.layer.dequantize().to(gradient.dtype), None, None


def make_shardable(part: nn.Module) -> None:
    """Replaces the quantised layers in ``part``, below adapters too; others stay."""
    kinds = {Linear4bit: ShardableLinear4bit, Linear8bitLt: ShardableLinear8bit}
    for parent in list(part.modules()):
        for name, child in parent.named_children():
            if type(child) in kinds:
                setattr(parent, name, kinds[type(child)](child))
