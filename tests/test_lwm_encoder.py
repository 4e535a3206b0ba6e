"""`LWMEncoder` as scikit-learn uses transformers."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from support.finetuning_cases import easy_channels, small_model

from lwm_fast import InputError, LWMEncoder, transformer


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("weights")
    small_model().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    channels = easy_channels(24)
    assert channels.labels is not None
    return channels.csi, channels.labels


@pytest.mark.parametrize(
    ("pool", "width"), [("cls", 32), ("mean", 32), ("patches", 8 * 32), ("tokens", 9 * 32)]
)
def test_embeddings_equal_encode_and_are_flat(weights, data, pool, width):
    got = LWMEncoder(weights, pool).fit_transform(data[0])
    assert (got.dtype, got.shape) == (np.float32, (24, width))
    np.testing.assert_allclose(got, small_model().encode(data[0], pool).reshape(24, -1), rtol=1e-5, atol=1e-6)


def test_flattened_channels_need_their_rows(weights, data):
    flat = data[0].reshape(24, -1)
    encoder = LWMEncoder(weights, num_antennas=8).fit(flat)
    np.testing.assert_array_equal(encoder.transform(flat), LWMEncoder(weights).fit_transform(data[0]))
    assert (encoder.shape_in_, encoder.n_features_in_, encoder.n_features_out_) == ((8, 16), 128, 32)
    with pytest.raises(InputError, match=r"or flattened channels .* and num_antennas="):
        LWMEncoder(weights).fit(flat)
    with pytest.raises(InputError, match="128 values a channel do not divide into num_antennas=7"):
        LWMEncoder(weights, num_antennas=7).fit(flat)


def test_what_is_no_channel_is_refused(weights, data):
    with pytest.raises(InputError, match="channels are complex"):
        LWMEncoder(weights).fit(data[0].real)
    with pytest.raises(InputError, match="pool='clss' is unknown"):
        LWMEncoder(weights, "clss").fit(data[0])
    with pytest.raises(InputError, match="8 x 12, and fit saw 8 x 16"):
        LWMEncoder(weights).fit(data[0]).transform(data[0][:, :, :12])
    with pytest.raises(InputError, match="no such file"):
        LWMEncoder("nowhere.pth").fit(data[0])
    from sklearn.exceptions import NotFittedError

    with pytest.raises(NotFittedError):
        LWMEncoder(weights).transform(data[0])


def test_making_one_reads_nothing_and_cloning_keeps_the_settings():
    encoder = LWMEncoder("nowhere.pth", "mean", precision="bfloat16", scale=2.0, batch_size=4)
    assert clone(encoder).get_params() == encoder.get_params()
    assert encoder.set_params(pool="cls").pool == "cls"


def test_pickles_are_small_and_embed_the_same(weights, data):
    encoder = LWMEncoder(weights).fit(data[0])
    stored = pickle.dumps(encoder)
    assert len(stored) < 2000
    np.testing.assert_array_equal(pickle.loads(stored).transform(data[0]), encoder.transform(data[0]))


def test_weights_are_read_once_a_process_and_again_when_the_file_changes(
    weights, data, tmp_path, monkeypatch
):
    loads = []
    load = transformer.load_model
    monkeypatch.setattr(transformer, "load_model", lambda path: loads.append(path) or load(path))
    monkeypatch.setattr(transformer, "_models", {})
    folder = tmp_path / "own"
    small_model().save_pretrained(folder)
    for _ in range(3):
        before = LWMEncoder(str(folder)).fit_transform(data[0])
    assert len(loads) == 1
    type(small_model()).random(small_model().config, seed=5).save_pretrained(folder)
    after = LWMEncoder(str(folder)).fit_transform(data[0])
    assert len(loads) == 2
    assert not np.array_equal(before, after)
    for i in range(6):
        small_model().save_pretrained(tmp_path / str(i))
        LWMEncoder(str(tmp_path / str(i))).fit(data[0])
    assert len(transformer._models) == 4


def test_a_model_itself_will_do(data):
    model = small_model()
    np.testing.assert_allclose(LWMEncoder(model).fit_transform(data[0]), model.encode(data[0]), rtol=1e-6)


def test_pipeline_grid_search_and_two_processes(weights, data):
    x, y = data
    pipeline = make_pipeline(LWMEncoder(weights), LogisticRegression(max_iter=500))
    search = GridSearchCV(pipeline, {"lwmencoder__pool": ["cls", "mean"]}, cv=2).fit(x, y)
    assert search.best_params_["lwmencoder__pool"] in ("cls", "mean")
    alone = cross_val_score(pipeline, x, y, cv=2)
    np.testing.assert_array_equal(cross_val_score(pipeline, x, y, cv=2, n_jobs=2), alone)


def test_names_of_the_features_and_pandas_output(weights, data):
    encoder = LWMEncoder(weights, "mean").fit(data[0])
    names = encoder.get_feature_names_out()
    assert (names[0], names[-1], len(names)) == ("lwm_mean0", "lwm_mean31", 32)
    pandas = pytest.importorskip("pandas")
    frame = encoder.set_output(transform="pandas").transform(data[0])
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == list(names)
