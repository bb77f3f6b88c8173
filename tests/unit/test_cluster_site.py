"""Site file: both forms of asking for a GPU, and mistakes that name the file and the key."""

import pytest

from scripts.lib.cluster.cluster_site import gpu_request, load_site
from scripts.lib.runtime.config_files import ConfigError


@pytest.fixture
def write(tmp_path, monkeypatch):
    def write_site(text):
        path = tmp_path / "site.yaml"
        path.write_text(text)
        monkeypatch.setenv("TRAJQUANT_SITE", str(path))

    return write_site


def test_the_file_of_the_clone_says_nothing():
    assert load_site() == {}


def test_a_file_outside_the_clone(write):
    write("account: my-project\ngpu_request: gres\n")
    assert load_site() == {"account": "my-project", "gpu_request": "gres"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("acount: x\n", ["site.yaml", "unknown key `acount`", "did you mean `account`"]),
        ("gpu_request: both\n", ["site.yaml", "`gpu_request`", "gpus, gres"]),
        ("jobs: 0\n", ["site.yaml", "`jobs`"]),
        ("a: [\n", ["site.yaml", "not valid YAML"]),
        ("scratch: /local/$NO_SUCH_VARIABLE\n", ["site.yaml", "`scratch`", "login node", "$NO_SUCH_VARIABLE"]),
    ],
)
def test_mistakes(write, text, words):
    write(text)
    with pytest.raises(ConfigError) as error:
        load_site()
    assert all(word in str(error.value) for word in words), error.value


def test_a_file_that_is_not_there(monkeypatch):
    monkeypatch.setenv("TRAJQUANT_SITE", "nowhere.yaml")
    with pytest.raises(ConfigError, match=r"nowhere\.yaml does not exist; correct TRAJQUANT_SITE"):
        load_site()


def test_forms_of_a_gpu_request():
    assert gpu_request({}) == {"gpu": 1}
    assert gpu_request({"gpu_type": "a100"}) == {"gpu": 1, "gpu_model": "a100"}
    assert gpu_request({"gpu_request": "gres"}) == {"gres": "gpu:1"}
    asked = gpu_request({"gpu_request": "gres", "gpu_type": "a100", "gpu_partition": "big"})
    assert asked == {"gres": "gpu:a100:1", "slurm_partition": "big"}


def test_cpus_beside_each_of_several_gpus():
    assert gpu_request({"cpus_per_gpu": 8}) == {"gpu": 1, "cpus_per_gpu": 8}
    assert gpu_request({"gpu_request": "gres"}, 4) == {"gres": "gpu:4"}
