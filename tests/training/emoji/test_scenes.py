"""Captions of scenes say what is drawn, and nothing else."""

from __future__ import annotations

import pytest

from textual_vision.training.emoji.scene_layers import Scene
from textual_vision.training.emoji.scenes import all_scenes, scene_captions


def test_green_forest_with_river_has_its_exact_phrasings() -> None:
    assert scene_captions(Scene(ground="forest", water="river", backdrop="", sky="blue")) == (
        "green forest with river, blue sky",
        "green forest with river",
        "a green forest with a river under a blue sky",
        "forest and a river",
        "a green forest with a river, blue sky",
        "forest under a blue sky",
    )


def test_a_full_scene_names_all_its_parts() -> None:
    captions = scene_captions(Scene(ground="snow", water="lake", backdrop="moon", sky="night"))
    assert captions[0] == "snowy forest with lake and moon, night sky"
    assert captions[2] == "a snowy forest with a lake and the moon under a night sky"


def test_a_bare_scene_is_its_ground_and_sky() -> None:
    captions = scene_captions(Scene(ground="desert", water="", backdrop="", sky="sunset"))
    assert captions == (
        "desert, sunset sky",
        "desert",
        "a desert under a sunset sky",
        "sandy desert under a sunset sky",
    )


@pytest.mark.parametrize("scene", all_scenes(), ids=lambda scene: scene.concept)
def test_no_caption_names_what_is_not_there(scene: Scene) -> None:
    absent = {"river", "lake", "mountains", "sun", "moon"} - {scene.water, scene.backdrop}
    for caption in scene_captions(scene):
        assert not absent & set(caption.replace(",", "").split())


def test_no_sun_shines_at_night_and_every_scene_is_its_own() -> None:
    scenes = all_scenes()
    assert len({scene.concept for scene in scenes}) == len(scenes)
    assert not any(scene.sky == "night" and scene.backdrop == "sun" for scene in scenes)
