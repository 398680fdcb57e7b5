"""Roles, traits and questions -> the prompts of a run."""

from keel.prompts.checking import Fault, find_faults, find_twins
from keel.prompts.choosing import (
    make_default_prompts,
    make_prompts,
    make_trait_prompts,
)
from keel.prompts.endpoint import open_endpoint
from keel.prompts.generating import Wanted, generate_role, generate_trait, save_prompts
from keel.prompts.likeness import load_embedder
from keel.prompts.pricing import Price, price_roles, price_traits
from keel.prompts.reading import read_library, read_questions, read_roles, read_traits
from keel.prompts.reading_sets import read_red_team
from keel.prompts.rubrics import read_rubrics
from keel.prompts.sets import (
    Prefill,
    RedTeam,
    RedTeamCase,
    RedTeamPersona,
    RedTeamRequest,
    SusceptibleRole,
    UserPersona,
)
from keel.prompts.shipped import (
    PlacedText,
    load_introspective_questions,
    load_library,
    load_prefills,
    load_red_team,
    load_scenarios,
    load_susceptible_roles,
    load_user_personas,
    shipped_counts,
    shipped_texts,
    texts_of,
)
from keel.prompts.values import Library, Question, Role, Scenario, Trait, TraitPair, role_kinds
from keel.settings import PromptSettings, settings_for

__all__ = [
    "Fault",
    "Library",
    "PlacedText",
    "Prefill",
    "Price",
    "PromptSettings",
    "Question",
    "RedTeam",
    "RedTeamCase",
    "RedTeamPersona",
    "RedTeamRequest",
    "Role",
    "Scenario",
    "SusceptibleRole",
    "Trait",
    "TraitPair",
    "UserPersona",
    "Wanted",
    "find_faults",
    "find_twins",
    "generate_role",
    "generate_trait",
    "load_embedder",
    "load_introspective_questions",
    "load_library",
    "load_prefills",
    "load_red_team",
    "load_scenarios",
    "load_susceptible_roles",
    "load_user_personas",
    "make_default_prompts",
    "make_prompts",
    "make_trait_prompts",
    "open_endpoint",
    "price_roles",
    "price_traits",
    "read_library",
    "read_questions",
    "read_red_team",
    "read_roles",
    "read_rubrics",
    "read_traits",
    "role_kinds",
    "save_prompts",
    "settings_for",
    "shipped_counts",
    "shipped_texts",
    "texts_of",
]
