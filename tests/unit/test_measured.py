"""measured: what a checkpoint's losses shared goes with its mark."""

import pytest

from scripts.measured import measured


@pytest.mark.parametrize("shared", [True, False])
def test_the_hidden_states_go_and_the_mark_stays(tmp_path, shared):
    folder, mark = tmp_path / "hidden/run/step-1", tmp_path / "step-1"
    other = tmp_path / "hidden/run/step-2/text.safetensors"
    for file in (other, *([folder / "text.safetensors"] if shared else [])):
        file.parent.mkdir(parents=True)
        file.touch()
    measured(folder, mark)
    assert (mark.is_file(), folder.exists(), other.is_file()) == (True, False, True)
