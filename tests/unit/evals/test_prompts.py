"""Prompts: held out, by name, the same every time; and keywords that really have several answers."""

from dataclasses import replace

import pytest
from tests.unit.evals.synthetic import DIALS, SUBJECTS, WORLD

from fewstep.data.emoji import COLOURS, World
from fewstep.data.places import PLACES
from fewstep.evals.prompts import ambiguous, held_out, shared_keywords


def _combination(scene):
    return scene.subject, scene.background, scene.paint


def test_held_out_prompts_show_nothing_that_training_shows():
    training = {_combination(WORLD.scene(WORLD.rng(index))) for index in range(3000)}
    assert len(training) > 40
    assert not training & {_combination(question.scene) for question in held_out(WORLD, 200)}


def test_they_name_one_subject_and_a_flat_background():
    for question in held_out(WORLD, 100):
        assert SUBJECTS[question.scene.subject].name in question.text
        assert question.scene.other is None
        assert question.scene.background in COLOURS and question.scene.background in question.text
        assert question.keyword == ""


def test_places_come_where_the_world_has_them():
    world = World(SUBJECTS, replace(DIALS, place=0.5), seed=3)
    questions = held_out(world, 100)
    shown = {question.scene.background for question in questions}
    assert shown & set(PLACES) and shown & set(COLOURS)
    assert all(PLACES.get(q.scene.background, q.scene.background) in q.text for q in questions)


def test_they_depend_on_neither_the_worlds_seed_nor_how_many_are_asked_for():
    assert held_out(WORLD, 30) == held_out(replace(WORLD, seed=99), 50)[:30]


def test_a_world_that_holds_nothing_out_is_refused_and_does_not_hang():
    with pytest.raises(ValueError, match="held_out"):
        held_out(World(SUBJECTS, replace(DIALS, held_out=0.0)), 5)


def test_shared_keywords_are_those_of_at_least_three_subjects():
    assert {word: len(subjects) for word, subjects in shared_keywords(WORLD).items()} == {"shape": 8, "disc": 4, "rhomb": 4}
    assert list(shared_keywords(WORLD)) == ["shape", "disc", "rhomb"]


def test_ambiguous_questions_repeat_their_text_and_show_several_right_subjects():
    questions = ambiguous(WORLD, keywords=2, pictures=16)
    assert [question.keyword for question in questions] == ["shape"] * 16 + ["disc"] * 16
    assert len({question.text for question in questions}) == 2
    for question in questions:
        assert question.keyword in WORLD.keywords(question.scene.subject)
    assert len({question.scene.subject for question in questions[:16]}) >= 4
    assert questions == ambiguous(WORLD, keywords=2, pictures=16)
