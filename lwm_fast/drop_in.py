"""`accelerate`: make a module of the released class fast inside a loop that somebody already has."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from lwm_fast import checkpoint, reference
from lwm_fast.accelerated import ALWAYS, LAZY, AcceleratedLWM, Form
from lwm_fast.config import LWMConfig
from lwm_fast.errors import InputError

TOLERANCE = 1e-4  # relative, Frobenius, of the original against the reference in float64
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_CHOICES = (LAZY, ALWAYS, None)


def accelerate(model: nn.Module, *, attention_maps: str | None = LAZY) -> nn.Module:
    """A module with the same contract as `model` that shares its parameters and is fast.

    model: an instance of the released class ``lwm`` (v1.0 or v1.1), recognised by its parameters, not by where it
        was imported from; ``DataParallel`` and ``DistributedDataParallel`` around it stay around the result.
    attention_maps: what stands where `model` returns its list of attention maps. "lazy": a sequence that computes
        them when it is first looked at; "always": the list itself, at the released cost; None: None.

    The result has the same Parameter objects, state_dict keys and order, so an existing optimizer goes on. `model`
    is run on a tiny input (random state untouched) to copy what it returns.
    Raises InputError, with the reason, for what cannot be accelerated: parameters that are not LWM's, half
    precision, hooks, dropout that is not one probability, values that differ from LWM's by more than 1e-4.
    """
    if attention_maps not in _CHOICES:
        raise InputError(f'attention_maps={attention_maps!r} is unknown; use "lazy", "always" or None')
    if isinstance(model, (DataParallel, DistributedDataParallel)):
        inner = accelerate(model.module, attention_maps=attention_maps)
        assert isinstance(inner, AcceleratedLWM)
        if isinstance(model, DataParallel) and len(model.device_ids) > 1:
            _check_gatherable(inner, attention_maps)
        return _rewrap(model, inner)
    if isinstance(model, AcceleratedLWM):
        return model
    _check_modules(model)
    config = _recognise(model)
    forms = _probe(model, config)
    return AcceleratedLWM(model, config, forms, attention_maps)


def _refuse(reason: str) -> InputError:
    return InputError(f"accelerate: {reason}")


def _check_gatherable(inner: AcceleratedLWM, attention_maps: str | None) -> None:
    if attention_maps != ALWAYS and any("maps" in form.roles for form in inner._forms.values()):
        raise _refuse(
            f"DataParallel over several devices gathers tensors only, not attention_maps={attention_maps!r}; "
            'pass attention_maps="always" or use DistributedDataParallel'
        )


def _rewrap(wrapper: nn.Module, inner: nn.Module) -> nn.Module:
    """The same wrapper around another module: DDP's gradient buckets belong to the parameters, which stay."""
    twin: nn.Module = object.__new__(type(wrapper))
    twin.__dict__.update(wrapper.__dict__)
    twin._modules = {**wrapper._modules, "module": inner}
    return twin


def _check_modules(model: nn.Module) -> None:
    if isinstance(model, torch.jit.ScriptModule):
        raise _refuse(
            "a scripted module has no Python forward to compare with; pass the module it was made from"
        )
    if hasattr(model, "_orig_mod"):
        raise _refuse(
            "the module went through torch.compile; pass the one it was made from (model._orig_mod)"
        )
    for name, module in model.named_modules():
        place = name or "the model itself"
        if any(getattr(module, kind) for kind in _HOOKS):
            raise _refuse(
                f"{place} has forward or backward hooks, which the fast forward would never call; remove them "
                "first (handle.remove())"
            )
        if hasattr(module, "parametrizations"):
            raise _refuse(f"{place} is parametrized; remove it with torch.nn.utils.parametrize first")


def _dropout(model: nn.Module) -> float:
    rates: dict[float, str] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            if type(module) is not nn.Dropout:
                raise _refuse(f"{name} is a {type(module).__name__}; LWM drops single features (nn.Dropout)")
            rates.setdefault(module.p, name)
    if len(rates) > 1:
        found = ", ".join(f"p={p} in {name}" for p, name in rates.items())
        raise _refuse(f"its dropouts differ ({found}); set them to one probability")
    return float(next(iter(rates), 0.0))


def _recognise(model: nn.Module) -> LWMConfig:
    """The configuration that the parameters tell; raises InputError when they are not LWM's."""
    state = model.state_dict()
    # Also what a state_dict may hold besides tensors, as quantised layers do.
    odd = [name for name, value in state.items() if not isinstance(value, Tensor) or value.is_quantized]
    if odd:
        raise _refuse(f"{odd[0]} is quantised; accelerate the floating-point model")
    dtypes = sorted({str(value.dtype).removeprefix("torch.") for value in state.values()})
    if dtypes not in (["float32"], ["float64"]):
        raise _refuse(
            f"its parameters are {' and '.join(dtypes)}; keep them float32 (model.float()) and use torch.autocast "
            "for half precision"
        )
    devices = sorted({str(value.device) for value in state.values()})
    if len(devices) > 1 or devices == ["meta"]:
        raise _refuse(f"its parameters are on {', '.join(devices)}; move them to one device with data")
    config = checkpoint.recognise(state, "accelerate")
    config = LWMConfig.from_dict({**config.to_dict(), "dropout": _dropout(model)})
    with torch.device("meta"):
        expected = reference.LWM(config.lwm_version, config.sizes).state_dict()
    checkpoint.check_state(state, expected, "accelerate")
    if buffers := [name for name, _ in model.named_buffers() if name in state]:
        raise _refuse(f"{buffers[0]} is a buffer; LWM's are parameters")
    return config


def _probe(model: nn.Module, config: LWMConfig) -> dict[bool, Form]:
    """What the model returns without (False) and with (True) masked_pos, its values checked."""
    first = next(model.parameters())
    generator = torch.Generator().manual_seed(0)
    seq_len = min(17, config.max_len)
    tokens = torch.randn(2, seq_len, config.patch_len, generator=generator).to(first.dtype)
    positions = torch.stack([torch.arange(3), torch.arange(2, -1, -1)]).clamp(max=seq_len - 1)  # [2, 3]
    with torch.device("meta"):  # no random initialisation
        twin = reference.LWM(config.lwm_version, config.sizes).eval()
    exact_state = {name: value.detach().cpu().double() for name, value in model.state_dict().items()}
    twin.load_state_dict(exact_state, assign=True)
    with torch.no_grad():
        exact, maps = _eager_reference(twin, tokens.double())
        logits = twin.head(exact, positions)
    known = {"output": exact, "logits": logits, "maps": maps}
    modes = {module: module.training for module in model.modules()}
    devices = [first.device] if first.device.type == "cuda" else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices):
            arguments = tokens.to(first.device), positions.to(first.device)
            masked = _called(model.eval(), arguments)
            forms = {True: _form(masked, known)}
            if not config.dropout:
                _compare(_called(model.train(), arguments), masked)
            model.eval()
            try:
                plain = model(arguments[0])
            except TypeError:  # v1.0 as released wants masked_pos; the package's own answer to None stands in
                roles = ("none", "output") if config.lwm_version == "1.0" else ("output", "maps")
                forms[False] = Form(roles, tuple)
            else:
                forms[False] = _form(plain, known)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return forms


def _called(model: nn.Module, arguments: tuple[Tensor, Tensor]) -> Any:
    try:
        return model(*arguments)
    except Exception as error:  # whatever a foreign forward raises is a reason
        shape = list(arguments[0].shape)
        raise _refuse(
            f"its forward(input_ids, masked_pos) does not take tokens {shape} ({type(error).__name__}: {error})"
        ) from error


def _eager_reference(twin: reference.LWM, tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
    x, maps = twin.embedding(tokens), []
    for layer in twin.layers:
        x, weights = layer(x)
        maps.append(weights)
    return x, maps


def _form(returned: Any, known: dict[str, Any]) -> Form:
    container = type(returned) if type(returned) in (tuple, list) else None
    values = list(returned) if container else [returned]
    return Form(tuple(_role(value, i, known) for i, value in enumerate(values)), container)


def _role(value: Any, index: int, known: dict[str, Any]) -> str:
    if value is None:
        return "none"
    shapes = _shapes(value)
    for role, exact in known.items():
        if shapes == _shapes(exact):
            for mine, theirs in zip(_tensors(value), _tensors(exact), strict=True):
                error = _relative(mine, theirs)
                if not error <= TOLERANCE:
                    raise _refuse(
                        f"its {role} differs from LWM's by {error:.1e} (relative; at most {TOLERANCE:.0e}): the same "
                        "parameters, but another computation"
                    )
            return role
    raise _refuse(
        f"value {index} that its forward returns is {shapes}, which is no logits, output or maps of LWM"
    )


def _compare(training: Any, evaluated: Any) -> None:
    """Raise unless a forward in training mode, without known dropout, is that of evaluation."""
    pairs = zip(_tensors(training), _tensors(evaluated), strict=True)
    if any(not _relative(a, b.double().cpu()) <= TOLERANCE for a, b in pairs):
        raise _refuse(
            "its forward differs between training and evaluation, but it has no nn.Dropout to read the probability "
            "from; give it nn.Dropout modules"
        )


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [tensor for part in value for tensor in _tensors(part)] if isinstance(value, (list, tuple)) else []


def _shapes(value: Any) -> Any:
    if isinstance(value, Tensor):
        return list(value.shape)
    return [_shapes(part) for part in value] if isinstance(value, (list, tuple)) else type(value).__name__


def _relative(value: Tensor, exact: Tensor) -> float:
    difference = value.detach().double().cpu() - exact
    return float(torch.linalg.vector_norm(difference) / torch.linalg.vector_norm(exact))
