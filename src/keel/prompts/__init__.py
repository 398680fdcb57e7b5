"""Roles, traits and questions -> the prompts of a run."""

from keel.prompts.choosing import PromptSettings, make_prompts, settings_for
from keel.prompts.reading import read_questions, read_roles, read_traits
from keel.prompts.shipped import load_library, load_scenarios
from keel.prompts.values import Library, Question, Role, Scenario, Trait, TraitPair, role_kinds

__all__ = [
    "Library",
    "PromptSettings",
    "Question",
    "Role",
    "Scenario",
    "Trait",
    "TraitPair",
    "load_library",
    "load_scenarios",
    "make_prompts",
    "read_questions",
    "read_roles",
    "read_traits",
    "role_kinds",
    "settings_for",
]
