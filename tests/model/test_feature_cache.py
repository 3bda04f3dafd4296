"""Features on disk: kept as they are, one encoder's, damage named."""

from pathlib import Path

import pytest
import torch

from model.feature_cache import FeatureCache


def test_feature_cache_keeps_tensors_as_they_are(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "features", "sha256:1234@448")
    tensor = torch.randn(8, 4, 2, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16).movedim(0, 2)
    assert cache.get("ab12") is None
    cache.put("ab12", torch.zeros(1))
    cache.put("ab12", tensor)
    again = FeatureCache(tmp_path / "features", "sha256:1234@448").get("ab12")
    assert again is not None
    assert again.dtype == torch.bfloat16
    assert torch.equal(again, tensor)
    files = [str(file.relative_to(tmp_path / "features")) for file in (tmp_path / "features").rglob("*.*")]
    assert files == ["ab/ab12.safetensors"]  # nothing temporary stays


def test_feature_cache_is_one_encoders(tmp_path: Path) -> None:
    FeatureCache(tmp_path, "one@448")
    with pytest.raises(ValueError, match="one@448, not of another@224"):
        FeatureCache(tmp_path, "another@224")


@pytest.mark.parametrize("keep", [0, 5, 100])
def test_damaged_features_are_computed_again(tmp_path: Path, keep: int) -> None:
    cache = FeatureCache(tmp_path, "one")
    cache.put("ab12", torch.zeros(100))
    path = tmp_path / "ab" / "ab12.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert cache.get("ab12") is None  # a power cut, and no reason to end a training run
    cache.put("ab12", torch.ones(100))
    again = cache.get("ab12")
    assert again is not None
    assert torch.equal(again, torch.ones(100))


def test_features_without_a_key_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without a key"):
        FeatureCache(tmp_path, "one").put("", torch.zeros(1))
