"""Seeds belong to run, prompt and index; requests that mean nothing are refused."""

import pytest

from fulgurite.data.records.conversation import Turn
from fulgurite.generation import (
    Backend,
    Request,
    Sample,
    SamplingSettings,
    ServerBackend,
    TransformersBackend,
    by_request,
    sample_seed,
)
from fulgurite.generation.protocol import jobs_of

DRAWN = SamplingSettings(temperature=1.0, seed=4)


def test_seeds_are_frozen() -> None:
    """A change here would change every answer that somebody draws again."""
    assert sample_seed(0, "a", 0) == 4642621972576151809
    assert sample_seed(7, [Turn("user", "é")], 3, "task/1") == 4023260254722782044
    assert sample_seed(7, [1, 2], 3) == 4627900370758357150


def test_seeds_tell_runs_prompts_and_samples_apart() -> None:
    seeds = {
        sample_seed(seed, prompt, index, key)
        for seed in (0, 1)
        for prompt in ("a", "b", [Turn("user", "a")], [97], "[97]")
        for index in (0, 1)
        for key in ("", "x")
    }
    assert len(seeds) == 40
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_seed_does_not_depend_on_the_other_requests() -> None:
    first = jobs_of("x", ["a", "b"], 3, DRAWN)
    second = jobs_of("x", ["c", "b", Request("a", samples=(2, 5))], 2, DRAWN)
    assert second[1].seeds == {i: first[1].seeds[i] for i in (0, 1)}
    assert second[2].seeds[2] == first[0].seeds[2]
    assert set(second[2].seeds) == {2, 5}


def test_equal_prompts_get_different_answers() -> None:
    one, two, keyed = jobs_of("x", ["a", "a", Request("a", "task")], 1, DRAWN)
    assert len({one.seeds[0], two.seeds[0], keyed.seeds[0]}) == 3
    assert keyed.seeds == jobs_of("x", [Request("a", "task")], 1, DRAWN)[0].seeds


def test_what_means_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        jobs_of("x", ["a"], 0, DRAWN)
    with pytest.raises(ValueError, match="same answer each time"):
        jobs_of("x", ["a"], 2, SamplingSettings())
    with pytest.raises(ValueError, match="each stands there once"):
        Request("a", samples=(1, 1))
    with pytest.raises(ValueError, match="each stands there once"):
        Request("a", samples=(-1,))
    for options, words in (
        ({"stop": "text"}, "sequence of texts"),
        ({"stop": ("",)}, "not empty"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_k": -1}, "top_k=-1"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0"),
        ({"seed": 2**63}, "63 bits"),
    ):
        with pytest.raises(ValueError, match=f"SamplingSettings.*{words}"):
            SamplingSettings(**options)  # type: ignore[arg-type]


def test_samples_are_gathered_by_request() -> None:
    samples = [Sample(1, 1, "d", "stop"), Sample(0, 0, "a", "stop"), Sample(1, 0, "c", "stop")]
    assert [[sample.text for sample in some] for some in by_request(samples)] == [["a"], ["c", "d"]]


def test_every_backend_keeps_to_the_protocol() -> None:
    for backend in (TransformersBackend, ServerBackend):
        assert all(callable(getattr(backend, name)) for name in ("identity", "sample"))
    assert isinstance(ServerBackend("m", "http://127.0.0.1:1/v1"), Backend)
