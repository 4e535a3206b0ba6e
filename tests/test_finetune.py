"""`finetune`: what is trained and what is not, exact gradients, heads, results, and what is refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from support.finetuning_cases import CONFIG, easy_channels, small_model
from torch import nn

from lwm_fast import LWM, Channels, InputError, finetune, reference
from lwm_fast.draws import Draws
from lwm_fast.finetuning import LoRA
from lwm_fast.finetuning.freeze import trained_part
from lwm_fast.finetuning.lora import add_adapters, merge_adapters, weight_with_adapter
from lwm_fast.finetuning.top import Below, Top
from lwm_fast.links import LinkHeads
from lwm_fast.pooling import POOLS
from lwm_fast.tasks import ClassificationTask, Split, make_split
from lwm_fast.tasks.los import LosTask
from lwm_fast.train_encoder import encode_for_training


def run(model: LWM | None = None, freeze="last-1", source=None, task="los", **more):
    more = {"config": CONFIG, "progress": False, **more}
    return finetune(
        small_model() if model is None else model,
        task,
        easy_channels() if source is None else source,
        freeze=freeze,
        **more,
    )


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def changed(before: LWM, after: LWM) -> set[str]:
    old = before.state_dict()
    return {name for name, value in after.state_dict().items() if not torch.equal(value, old[name])}


# ------------------------------------------------------------------------------------- what is trained


def test_names_are_whole_components():
    model = LWM.random(small_model(num_layers=12).config)
    part = trained_part(model, ["layers.1"])
    assert part.first == 1
    assert all(name.startswith("layers.1.") for name in part.names)
    assert {name.split(".")[1] for name in trained_part(model, "last-3").names} == {"9", "10", "11"}
    assert trained_part(model, "none").first == -1
    assert trained_part(model, ["embedding.norm", "layers.4.pos_ffn.fc1"]).first == -1
    assert trained_part(model, ["layers.4.pos_ffn.fc1.bias"]).names == ("layers.4.pos_ffn.fc1.bias",)
    assert trained_part(model, "all").first is None


def test_the_masked_head_and_unused_norms_are_never_trained():
    names = trained_part(small_model("1.0", max_len=129, num_heads=4, head_dim=5), "none").names
    assert not [n for n in names if n.startswith(("linear", "decoder", "norm")) or "enc_self_attn.norm" in n]
    with pytest.raises(InputError, match="'decoder' takes no part in the embeddings"):
        trained_part(small_model(), ["decoder"])


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (["layers.3"], "no component 'layers.3'; close ones: layers.2, layers.1, layers.0"),
        (["layers.1.pos_fnn"], "close ones: layers.1.pos_ffn"),
        ("last-4", "this model has 3 layers; use last-1 to last-3"),
        ("last-0", "use last-1"),
        ("half", 'use "all", "none", "last-K", "lora"'),
        ([], "no component is named"),
    ],
)
def test_unknown_parts_are_refused_with_the_close_ones(freeze, message):
    with pytest.raises(InputError, match=message):
        run(freeze=freeze)


@pytest.mark.parametrize(
    ("freeze", "prefixes"),
    [
        ("all", ()),
        ("last-2", ("layers.1.", "layers.2.")),
        (["layers.1", "embedding.proj"], ("layers.1.", "embedding.proj.")),
        ("none", ("layers.", "embedding.")),
    ],
)
def test_only_what_is_asked_for_changes(freeze, prefixes):
    model = small_model()
    result = run(model, freeze)
    names = changed(model, result.model)
    assert all(name.startswith(prefixes or "-") for name in names)
    assert {p for p in prefixes if any(n.startswith(p) for n in names)} == set(prefixes)
    encoder = sum(model.get_parameter(name).numel() for name in trained_part(model, freeze).names)
    assert result.trainable_parameters == encoder + result.head_parameters


@pytest.mark.parametrize("freeze", ["all", "last-1", "none", "lora"])
def test_the_given_model_is_untouched_and_runs_do_not_leak_into_each_other(freeze):
    model = small_model().train()
    before, tokens = copy.deepcopy(model.state_dict()), random(3, 9, 32)
    flags = [p.requires_grad for p in model.parameters()]
    with torch.no_grad():
        output = reference.LWM.forward(model.eval(), tokens)[0]
    model.train()
    state = torch.get_rng_state()
    first, again = run(model, freeze), run(model, freeze)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert flags == [p.requires_grad for p in model.parameters()]
    with torch.no_grad():
        assert torch.equal(output, reference.LWM.forward(model.eval(), tokens)[0])
    assert np.array_equal(first.predictions, again.predictions)
    assert first.history == again.history
    assert not changed(first.model, again.model)


# --------------------------------------------------------------------------------- exact arithmetic


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("pool", ["cls", "mean", "mean_with_cls", "patches", "tokens"])
@pytest.mark.parametrize("first", [-1, 0, 1, 2])
def test_cached_activations_give_the_gradients_of_the_whole_model(version, pool, first):
    sizes = {"max_len": 129, "head_dim": 5, "num_heads": 4} if version == "1.0" else {}
    model = small_model(version, dropout=0.0, **sizes)
    rng = np.random.default_rng(0)
    shape = (3, 32, 32) if version == "1.0" else (3, 8, 16)
    csi = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64) * 1e-6
    channels = Channels.from_arrays(csi)
    below = Below(model, channels, None, first, folder=None, progress=False)
    names = [n for n, _ in model.named_parameters() if n.startswith("layers.2.")]
    names = names if first == 2 else list(trained_part(model, [f"layers.{max(first, 0)}", "layers.2"]).names)
    names = [n for n in names if ".pos_ffn.norm" not in n and ".enc_self_attn.norm" not in n]
    weights = [model.get_parameter(name) for name in names]
    got = Top(model, first, POOLS[pool])(below[torch.arange(3)], None)
    tokens = reference.tokenize(torch.from_numpy(csi), version)
    output = reference.LWM.forward(model, tokens)
    wanted = POOLS[pool](output[1] if version == "1.0" else output[0])
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    direction = torch.from_numpy(rng.standard_normal(got.shape).astype(np.float32))
    mine = torch.autograd.grad((got * direction).sum(), weights)
    theirs = torch.autograd.grad((wanted * direction).sum(), weights)
    for name, a, b in zip(names, mine, theirs, strict=True):
        if "W_K.bias" in name:  # zero in real arithmetic: softmax does not see it
            assert float(a.norm()) < 1e-3
        else:
            assert float((a - b).norm() / b.norm()) < 1e-3, name


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_dropout_in_the_trained_layers_is_that_of_the_whole_forward(pool):
    model = small_model(dropout=0.3)
    tokens = torch.randn(4, 9, 32, generator=torch.Generator().manual_seed(0))
    draws = Draws(5, 2, torch.tensor([7, 1, 30, 4]))
    wanted = POOLS[pool](encode_for_training(model, tokens, draws))
    got = Top(model, -1, POOLS[pool])(tokens, draws)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(got, Top(model, -1, POOLS[pool])(tokens, None))


@pytest.mark.parametrize(("budget", "where"), [(1 << 30, "memory"), (0, "file"), (0, "again")])
def test_activations_are_the_same_wherever_they_are_kept(tmp_path, budget, where):
    model, channels, rows = small_model(), easy_channels(), torch.tensor([5, 0, 59])
    plain = Below(model, channels, None, 1, folder=None, progress=False)[rows]
    folder = tmp_path if where == "file" else None
    kept = Below(model, channels, None, 1, folder=folder, budget=budget, progress=False)
    assert kept.where == where
    assert kept.num_bytes == 60 * 9 * 32 * 4
    torch.testing.assert_close(kept[rows], plain, rtol=1e-5, atol=1e-6)
    assert (tmp_path / "activations.npy").exists() == (where == "file")


# --------------------------------------------------------------------------------------------- LoRA


def test_adapters_start_without_effect_and_merge_exactly():
    model = small_model(dropout=0.0)
    plain, tokens = copy.deepcopy(model), torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))
    trained = add_adapters(model, LoRA(r=2, alpha=6, targets=("W_Q", "W_V", "linear", "fc1")), seed=0)
    assert sum(p.numel() for p in trained) == 3 * 2 * (3 * (32 + 32) + (32 + 64))
    top = Top(model, -1, POOLS["cls"])
    torch.testing.assert_close(top(tokens, None), Top(plain, -1, POOLS["cls"])(tokens, None))
    with torch.no_grad():
        for i, p in enumerate(trained):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) * 0.1)
    adapted = model.layers[1].enc_self_attn.W_Q
    x = random(5, 32)
    torch.testing.assert_close(
        adapted(x), nn.functional.linear(x, weight_with_adapter(adapted), adapted.bias)
    )
    wanted = top(tokens, None)
    gradients = torch.autograd.grad(wanted.square().sum(), trained)
    assert all(float(g.abs().max()) > 0 for g in gradients)
    merge_adapters(model)
    assert list(model.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(Top(model, -1, POOLS["cls"])(tokens, None), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("freeze", ["lora", LoRA(r=2, targets=("fc2",), last=1)])
def test_lora_trains_its_targets_only(freeze):
    model = small_model()
    result = run(model, freeze)
    names = changed(model, result.model)
    targets = ("W_Q.weight", "W_V.weight") if freeze == "lora" else ("layers.2.pos_ffn.fc2.weight",)
    assert names
    assert all(name.endswith(targets) for name in names)
    count = 3 * 2 * 4 * 64 if freeze == "lora" else 2 * (32 + 64)
    assert result.trainable_parameters - result.head_parameters == count


def test_lora_settings_are_checked():
    with pytest.raises(InputError, match="r=0"):
        LoRA(r=0)
    with pytest.raises(InputError, match="use some of W_Q, W_K"):
        LoRA(targets=("query",))
    with pytest.raises(InputError, match="last=9"):
        run(freeze=LoRA(last=9))


# -------------------------------------------------------------------------------------------- results


@pytest.mark.parametrize("pool", ["cls", "mean", "patches"])
@pytest.mark.parametrize("freeze", ["all", "last-2"])
def test_power_is_learnt_from_embeddings(pool, freeze):
    config = CONFIG if freeze != "all" else None
    result = run(freeze=freeze, input=pool, config=config, head="linear" if pool == "mean" else "default")
    assert set(result.best) == {"f1_weighted", "accuracy"} == set(result.last) == set(result.validation)
    assert len(result.history) == (4 if freeze != "all" else 120)
    best = [record["validation"] for record in result.history]
    assert result.best_epoch == 1 + int(np.argmax(best))


def test_predictions_belong_to_the_test_users_and_are_made_again_by_predict():
    channels = easy_channels()
    result = run(source=channels, freeze="last-2")
    test = channels[result.split.test]
    again = result.predict(test)
    np.testing.assert_allclose(again, result.predictions, rtol=1e-4, atol=1e-5)
    scores = LosTask().score(LosTask().examples(test), again)
    assert scores == pytest.approx(result.best)
    last = LosTask().score(LosTask().examples(test), result.predict(test, which="last"))
    assert last == pytest.approx(result.last)
    with pytest.raises(InputError, match="which='first'"):
        result.predict(test, which="first")


def test_nobody_to_test_or_validate_is_fine():
    examples = LosTask().examples(easy_channels())
    nobody = np.empty(0, np.int64)
    split = Split(np.arange(40), nobody, nobody, "mine", 0)
    result = run(source=examples, split=split)
    assert (result.best, result.last, result.validation) == ({}, {}, {})
    assert result.best_epoch == CONFIG.epochs
    assert result.predict(examples.channels[:3]).shape == (3, 2)
    with pytest.raises(InputError, match="trains on nobody"):
        run(source=examples, split=Split(nobody, nobody, np.arange(4), "mine", 0))


def test_regression_comes_back_in_metres():
    config = CONFIG
    result = run(task="localization", freeze="last-1", config=config, head="linear")
    assert result.predictions.shape == (len(result.split.test), 2)
    assert "error_m" in result.best
    ridge = run(task="localization", freeze="all", head="ridge", input="patches", config=None)
    assert ridge.best["error_m"] < 3  # one guess for all is 5.6 m off
    assert ridge.history == []


def test_reconstruction_comes_back_as_csi():
    from lwm_fast.tasks import get_task

    task = get_task("estimation", snr_db=10.0)
    result = run(task=task, freeze="last-1", input="patches")
    assert result.predictions.dtype == np.complex64
    assert result.predictions.shape == (len(result.split.test), 8, 16)
    assert np.isfinite(result.best["nmse_db"])
    again = result.predict(task.examples(easy_channels())[result.split.test])
    np.testing.assert_allclose(again, result.predictions, rtol=1e-3, atol=1e-9)


def test_tuned_weights_do_not_pass_for_the_given_ones():
    model = small_model()
    info = run(model, "last-1").model.weights_info
    assert "fine-tuned on los" in info.source
    assert info.sha256 == ""
    assert run(model, "all").model.weights_info == model.weights_info


@pytest.mark.parametrize(("freeze", "kept"), [("all", True), ("last-1", False)])
def test_link_heads_stay_with_the_encoder_that_they_were_trained_on(freeze, kept):
    model = small_model()
    model.link_heads = LinkHeads.random(model.config.embed_dim, seed=0)
    assert (run(model, freeze=freeze).model.link_heads is not None) == kept
    assert model.link_heads is not None


def test_saving_writes_what_is_needed_to_go_on(tmp_path):
    from safetensors.torch import load_file

    result = run(freeze="lora")
    result.save(tmp_path / "out")
    loaded = LWM.from_pretrained(tmp_path / "out" / "model")
    assert not changed(result.model, loaded)
    head = load_file(tmp_path / "out" / "head.safetensors")
    assert all(torch.equal(head[name], value) for name, value in result.head.state_dict().items())
    saved = np.load(tmp_path / "out" / "predictions.npz")
    assert np.array_equal(saved["rows"], result.split.test)
    assert (tmp_path / "out" / "result.json").read_text().count('"f1_weighted"') == 3


# ---------------------------------------------------------------------------------------------- heads


def test_a_head_of_ones_own_is_copied_and_checked():
    mine = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(2))
    result = run(head=mine)
    assert isinstance(mine[0], nn.LazyLinear)
    assert result.head_parameters == 32 * 8 + 8 + 8 * 2 + 2
    with pytest.raises(InputError, match=r"head Linear does not take these inputs, \[32\] a user"):
        run(head=nn.Linear(64, 2))
    with pytest.raises(InputError, match=r"gives \[3\] a user, and the classification targets need \[2\]"):
        run(head=nn.Linear(32, 3))


def test_estimators_need_a_frozen_encoder():
    from sklearn.linear_model import LogisticRegression

    mine = LogisticRegression()
    result = run(freeze="all", head=mine, config=None)
    assert not hasattr(mine, "coef_")
    assert hasattr(result.head, "coef_")
    assert result.trainable_parameters == result.head_parameters == 33
    assert result.predict(easy_channels()[:5]).shape == (5, 2)
    with pytest.raises(InputError, match="LogisticRegression: an estimator gives no gradients"):
        run(freeze="last-1", head=mine)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"head": "mpl"}, "did you mean 'mlp'"),
        ({"input": "clss"}, "pool='clss' is unknown"),
        ({"task": "loss"}, "task 'loss' is not known; did you mean 'los'"),
        ({"freeze": "none", "config": CONFIG.__class__(standardize=True)}, "standardize=True is for frozen"),
    ],
)
def test_unknown_names_are_refused(more, message):
    with pytest.raises(InputError, match=message):
        run(**more)


def test_a_users_own_labels_can_be_tuned_on():
    channels = easy_channels()
    task = ClassificationTask(labels=np.where(channels.labels == 1, "near", "far"))
    examples = task.examples(channels)
    result = run(task=task, source=examples, split=make_split(examples, (0.6, 0.2, 0.2), seed=3))
    assert result.split.seed == 3
    assert result.about["task"] == "classification"
