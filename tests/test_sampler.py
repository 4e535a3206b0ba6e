"""`BucketSampler`: one length a batch, every sample once, one plan for all ranks, resumed from two numbers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from support.released import random_csi
from test_collate import some_rays

from lwm_fast import InputError
from lwm_fast.data import BucketSampler, Channels, ChannelStore


class Lengths:
    """A store of given lengths, the same in all epochs."""

    def __init__(self, lengths: Any, fingerprint: str = "a") -> None:
        self.values = np.asarray(lengths, np.int32)
        self.fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self.values)

    def lengths(self, epoch: int) -> np.ndarray[Any, Any]:
        return self.values


def mixed(count: int = 500, seed: int = 0) -> Lengths:
    return Lengths(np.random.default_rng(seed).choice([17, 33, 65, 129], count, p=[0.5, 0.3, 0.15, 0.05]))


def one_pass(sampler: BucketSampler) -> list[list[tuple[int, int]]]:
    return list(sampler)


def flat(batches: list[list[tuple[int, int]]]) -> list[int]:
    return [index for batch in batches for _, index in batch]


@pytest.mark.parametrize("options", [{"batch_size": 16}, {"token_budget": 600}])
def test_every_sample_once_and_one_length_a_batch(options):
    store = mixed()
    sampler = BucketSampler(store, split="all", **options)
    batches = one_pass(sampler)
    assert sorted(flat(batches)) == list(range(500))
    assert len(batches) == sampler.steps(0)
    for step, batch in enumerate(batches):
        lengths = {int(store.values[index]) for _, index in batch}
        assert lengths == {sampler.bucket_of(0, step)}
        limit = 16 if "batch_size" in options else 600 // lengths.pop()
        assert len(batch) <= limit


def test_batch_size_by_length_and_dropping_the_last():
    store = mixed()
    sizes = {17: 32, 33: 16, 65: 8, 129: 4}
    sampler = BucketSampler(store, split="all", batch_size=sizes, last="drop")
    for step, batch in enumerate(one_pass(sampler)):
        assert len(batch) == sizes[sampler.bucket_of(0, step)]
    counts = {length: int((store.values == length).sum()) for length in sizes}
    assert sampler.steps(0) == sum(counts[length] // size for length, size in sizes.items())


def test_buckets_are_mixed_not_one_after_another():
    sampler = BucketSampler(mixed(4000), split="all", batch_size=16)
    lengths = [sampler.bucket_of(0, step) for step in range(sampler.steps(0))]
    changes = int((np.diff(lengths) != 0).sum())
    assert changes > len(lengths) / 3


def test_epochs_differ_and_repeat():
    first, second = (one_pass(BucketSampler(mixed(), batch_size=16, seed=s)) for s in (1, 1))
    assert first == second
    sampler = BucketSampler(mixed(), batch_size=16, seed=1)
    assert one_pass(sampler) == first
    assert sampler.epoch == 1
    again = one_pass(sampler)
    assert {epoch for batch in again for epoch, _ in batch} == {1}
    assert flat(again) != flat(first)
    assert sorted(flat(again)) == sorted(flat(first))
    assert flat(first) != flat(one_pass(BucketSampler(mixed(), batch_size=16, seed=2)))


def test_validation_is_a_fifth_of_each_bucket_and_never_changes():
    store = mixed()
    train = BucketSampler(store, batch_size=16)
    validation = BucketSampler(store, batch_size=16, split="validation")
    held_out = flat(one_pass(validation))
    assert sorted(held_out + flat(one_pass(train))) == list(range(500))
    for length in (17, 33, 65, 129):
        share = sum(store.values[i] == length for i in held_out)
        assert share == round(0.2 * (store.values == length).sum())
    first = one_pass(validation)
    assert one_pass(validation) == first
    assert {epoch for batch in first for epoch, _ in batch} == {0}
    iterator = iter(validation)
    next(iterator)
    assert one_pass(validation) == first  # a pass that was cut short starts again


def test_rays_keep_their_split_when_their_sizes_change():
    store = ChannelStore(Channels.from_rays(some_rays(300)))
    train = BucketSampler(store, batch_size=8)
    held_out = set(flat(one_pass(BucketSampler(store, batch_size=8, split="validation"))))
    for epoch in range(3):
        batches = one_pass(train)
        assert not held_out & set(flat(batches))
        assert len(flat(batches)) == 300 - len(held_out)
        for batch in batches:
            assert len({int(store.lengths(epoch)[index]) for _, index in batch}) == 1
    assert {train.steps(epoch) for epoch in range(5)} <= set(range(30, 45))


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_ranks_share_each_batch(world_size):
    ranks = [BucketSampler(mixed(), batch_size=16, rank=r, world_size=world_size) for r in range(world_size)]
    passes = [one_pass(sampler) for sampler in ranks]
    whole = one_pass(BucketSampler(mixed(), batch_size=16))
    assert {len(batches) for batches in passes} == {len(whole)}
    for step, batch in enumerate(whole):
        shares = [batches[step] for batches in passes]
        assert [item for share in shares for item in share] == batch
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("stop", [0, 1, 7, 24])
def test_resume(stop):
    whole = BucketSampler(mixed(), batch_size=16, seed=5)
    expected = one_pass(whole) + one_pass(whole)
    first = BucketSampler(mixed(), batch_size=16, seed=5)
    iterator = iter(first)
    seen = [next(iterator) for _ in range(stop)]
    state = json.loads(json.dumps(first.state_dict()))
    second = BucketSampler(mixed(), batch_size=16, seed=5)
    second.load_state_dict(state)
    assert seen + one_pass(second) + one_pass(second) == expected


def test_resume_after_a_whole_epoch_and_at_a_position():
    sampler = BucketSampler(mixed(), batch_size=16)
    first, second = one_pass(sampler), one_pass(sampler)
    other = BucketSampler(mixed(), batch_size=16)
    other.load_state_dict(other.state_at(1, 3))
    assert one_pass(other) == second[3:]
    other.load_state_dict(other.state_at(0, len(first) - 1))
    assert one_pass(other) == first[-1:]
    assert (other.epoch, other.step) == (1, 0)
    other.set_epoch(0)
    assert one_pass(other) == first


def test_set_epoch_keeps_a_resumed_position():
    sampler = BucketSampler(mixed(), batch_size=16)
    sampler.load_state_dict(sampler.state_at(1, 3))
    sampler.set_epoch(1)
    assert sampler.step == 3
    sampler.set_epoch(2)
    assert (sampler.epoch, sampler.step) == (2, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 8}, "batch_size: saved 16, now 8"),
        (
            {"batch_size": None, "token_budget": 500},
            "token_budget: saved None, now 500; batch_size: saved 16",
        ),
        ({"seed": 1}, "seed: saved 0, now 1"),
        ({"world_size": 2}, "world_size: saved 1, now 2"),
        ({"last": "drop"}, "last: saved 'keep', now 'drop'"),
        ({"store": Lengths([17] * 100, "b")}, "data: saved 'a', now 'b'"),
    ],
)
def test_a_state_of_other_batches_is_refused(changes, message):
    state = BucketSampler(mixed(), batch_size=16).state_dict()
    options = {"store": mixed(), "batch_size": 16, **changes}
    with pytest.raises(InputError, match=message):
        BucketSampler(options.pop("store"), **options).load_state_dict(state)


def test_state_does_not_grow():
    small, large = (BucketSampler(mixed(count), batch_size=16).state_dict() for count in (100, 50000))
    assert len(json.dumps(small)) == len(json.dumps(large)) < 400


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give batch_size or token_budget"),
        ({"batch_size": 8, "token_budget": 100}, "one of them"),
        ({"batch_size": 0}, "a batch of 0"),
        ({"batch_size": {17: 4}}, r"no entry for sequences of 33 tokens; it has \[17\]"),
        ({"batch_size": 8, "split": "test"}, "split='test'"),
        ({"batch_size": 8, "last": "pad"}, "last='pad'"),
        ({"batch_size": 8, "validation": 1.0}, r"validation=1\.0"),
        ({"batch_size": 8, "validation": 0.0, "split": "validation"}, "none of the 500 samples"),
        ({"batch_size": 8, "rank": 2, "world_size": 2}, r"rank=2: expected 0\.\.world_size - 1 = 1"),
        ({"batch_size": 8, "seed": -1}, "seed=-1"),
        ({"batch_size": 1000, "last": "drop"}, "no bucket fills one batch"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(InputError, match=message):
        BucketSampler(mixed(), **options)


def test_one_sample():
    sampler = BucketSampler(ChannelStore(random_csi(1, 8, 32)), batch_size=4, split="all")
    assert one_pass(sampler) == [[(0, 0)]]
    assert one_pass(sampler) == [[(1, 0)]]
