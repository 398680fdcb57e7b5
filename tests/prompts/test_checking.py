"""Each fault that a library can have is found, named, and nothing else is."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from keel.errors import MissingExtraError
from keel.prompts import (
    Library,
    Question,
    Trait,
    TraitPair,
    find_faults,
    find_twins,
    load_embedder,
    load_library,
)
from keel.prompts.checking import count_words, words

SHIPPED = load_library()
PIRATE = next(role for role in SHIPPED.roles if role.name == "pirate")
PATIENT = next(trait for trait in SHIPPED.traits if trait.name == "patient")
ASKED = Question("What would you do on a rainy day?", "daily")


def found(*, roles=(), traits=(), questions=()) -> list[str]:
    faults = find_faults(Library(tuple(roles), (), tuple(questions), tuple(traits)))
    return [f"{fault.location}: {fault.complaint}" for fault in faults]


def with_prompt(text: str):
    return replace(PIRATE, system_prompts=(text, *PIRATE.system_prompts[1:]))


def with_pair(encourage: str, discourage: str) -> Trait:
    return replace(PATIENT, pairs=(TraitPair(encourage, discourage), *PATIENT.pairs[1:]))


def test_what_is_well_made_has_no_fault():
    assert found(roles=[PIRATE], traits=[PATIENT], questions=[ASKED]) == []


LONG = "You are a pirate " + " ".join(f"word{n}" for n in range(42))  # 4 + 42 = 46 words
REWORDED = PIRATE.system_prompts[1].replace("gulls", "birds")


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"roles": [with_prompt("You are a pirate.")]}, "prompt 1: has 4 words, expected 12 to 45"),
        ({"roles": [with_prompt(LONG)]}, "prompt 1: has 46 words, expected 12 to 45"),
        (
            {"roles": [with_prompt("You sail under no flag and take whatever the sea will give")]},
            "role pirate, prompt 1: does not name its role",
        ),
        ({"roles": [with_prompt(REWORDED)]}, "role pirate, prompt 2: shares 9"),
        ({"roles": [replace(PIRATE, kind="")]}, "role pirate: has no kind"),
        ({"roles": [replace(PIRATE, description="")]}, "description: has 0 words, expected 3 to"),
        ({"roles": [replace(PIRATE, rubric="Arr.")]}, "rubric: has 1 words, expected 8 to"),
        (
            {"roles": [PIRATE, replace(PIRATE, name="pirates")]},
            "role pirates, prompt 1: says the same as role pirate, prompt 1",
        ),
        ({"traits": [replace(PATIENT, pairs=PATIENT.pairs[:4])]}, "has 4 pairs, expected 5"),
        (
            {
                "traits": [
                    with_pair(
                        "Wait as long as it takes, and then wait a little longer than that does",
                        "Hurry through every single thing that is asked of you, finish it before "
                        "anybody has sat down, and be off again with your hat on before they speak",
                    )
                ]
            },
            "pair 1: is uneven: 15 and 28 words",
        ),
        (
            {"traits": [with_pair(PATIENT.pairs[1].discourage, PATIENT.pairs[0].discourage)]},
            "trait patient, discourage 2: says the same as trait patient, encourage 1",
        ),
        ({"questions": [Question("Why, in the end, do you ask?")]}, "has no topic"),
        ({"questions": [Question("Why?", "self")]}, "has 1 words, expected 6 to 20"),
    ],
)
def test_a_fault_is_found_and_named(wrong, complaint):
    faults = found(**wrong)
    assert any(complaint in fault for fault in faults), faults


@pytest.mark.parametrize(
    "text",
    ["Healers know", "a HEALER'S hands", "Healing takes its time", "The healer waits"],
)
def test_a_role_is_named_in_any_form(text):
    texts = tuple(f"{text} {n} and walks home by way of the old harbour {n}" for n in range(5))
    healer = replace(PIRATE, name="healer", system_prompts=texts)
    assert not [fault for fault in found(roles=[healer]) if "does not name" in fault]


def test_both_parts_of_a_name_are_wanted():
    reef = replace(PIRATE, name="coral_reef")
    assert sum("does not name its role" in fault for fault in found(roles=[reef])) == 5


def planted(rows: dict[str, list[float]]):
    """An embedding known beforehand; what is not planted stands at right angles to all."""

    def embed(texts):
        found = np.eye(len(texts), 2 + len(texts), k=2)
        for place, text in enumerate(texts):
            if text in rows:
                found[place] = [*rows[text], *[0.0] * len(texts)]
        return found

    return embed


@pytest.mark.parametrize(
    ("cosine", "twins"),
    [(0.96, ["role pirate, prompt 2"]), (0.94, [])],
)
def test_prompts_of_one_role_are_twins_past_a_cosine_of_95(cosine, twins):
    one, other, *_ = PIRATE.system_prompts
    rows = {one: [1.0, 0.0], other: [cosine, (1 - cosine**2) ** 0.5]}
    faults = find_twins(Library((PIRATE,), (), ()), planted(rows))
    assert [fault.location for fault in faults] == twins


@pytest.mark.parametrize(("cosine", "twins"), [(0.86, 1), (0.84, 0)])
def test_prompts_of_two_roles_are_twins_past_a_cosine_of_85(cosine, twins):
    rogue = replace(PIRATE, name="rogue", system_prompts=("a", "b", "c", "d", "e"))
    rows = {PIRATE.system_prompts[0]: [1.0, 0.0], "e": [cosine, (1 - cosine**2) ** 0.5]}
    faults = find_twins(Library((PIRATE, rogue), (), ()), planted(rows))
    assert [(f.location, f.complaint[:26]) for f in faults] == [
        ("role rogue, prompt 5", "is too like role pirate, p")
    ] * twins


def test_the_two_sides_of_a_trait_may_be_as_like_as_they_are():
    """They are to differ in the trait alone, so that their contrast isolates it."""
    pair = PATIENT.pairs[0]
    rows = {pair.encourage: [1.0, 0.0], pair.discourage: [1.0, 0.0]}
    assert find_twins(Library((), (), (), (PATIENT,)), planted(rows)) == []


def test_two_traits_that_are_encouraged_alike_are_twins():
    calm = replace(PATIENT, name="calm", pairs=(TraitPair("a", "b"),) * 5)
    rows = {PATIENT.pairs[2].encourage: [1.0, 0.0], "b": [1.0, 0.0]}
    faults = find_twins(Library((), (), (), (PATIENT, calm)), planted(rows))
    assert faults[0].location == "trait calm, discourage 1"
    assert "encourage 3: cosine 1.00" in faults[0].complaint


def test_questions_are_compared_too():
    again = Question("What do you do when it rains?", "daily")
    rows = {ASKED.text: [1.0, 0.0], again.text: [0.9, 0.19**0.5]}
    faults = find_twins(Library((), (), (ASKED, again)), planted(rows))
    assert [fault.location for fault in faults] == ["question 2"]


@pytest.mark.real
@pytest.mark.timeout(900)
def test_nothing_in_the_library_says_what_something_else_says_already():
    """By a sentence encoder: 1375 role prompts, 2400 sides of traits, 240 questions.

    No role's prompts come nearer than 0.73, no two roles' than 0.70, no two traits' than 0.81.
    """
    embed = load_embedder()
    assert find_twins(SHIPPED, embed) == []
    role = replace(PIRATE, name="seadog", system_prompts=(*PIRATE.system_prompts[:4], "x"))
    again = find_twins(Library((PIRATE, role), (), ()), embed)
    assert len(again) == 4  # the encoder does find the four that were said again


def test_without_the_encoder_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'keel-llm\[likeness\]'"):
        load_embedder()


BY_SCRIPT = {
    # 26 Han letters / 1.6 = 16 words; 12 to 45 are allowed
    "Chinese": "你是一名在加勒比海上航行多年的老海盗说话粗鲁但心地很好",
    # 24 kana / 2.5 + 11 Han / 1.6 = 16 words
    "Japanese": "あなたは長年カリブの海を航海してきた古い海賊です。乱暴に話しますが心は優しい。",
    # 81 letters and marks / 5 = 16 words
    "Thai": "คุณเป็นโจรสลัดเฒ่าที่ล่องเรืออยู่ในทะเลแคริบเบียนมาหลายปีพูดจาหยาบคายแต่มีจิตใจดีงาม",
    # 82 letters, marks and dots / 5 = 16 words
    "Tibetan": "ཁྱེད་ནི་རྒྱ་མཚོའི་ཇག་པ་རྒན་པ་ཞིག་ཡིན། ཁྱེད་ཀྱིས་ལོ་མང་པོའི་རིང་གྲུ་གཟིངས་བཏང་མྱོང་།",
}


@pytest.mark.parametrize("script", BY_SCRIPT)
def test_words_are_counted_in_scripts_without_blanks_too(script):
    """Counted by blanks, every such prompt had one word, and every role failed."""
    assert found(roles=[with_prompt(BY_SCRIPT[script])]) == []
    assert found(roles=[with_prompt(BY_SCRIPT[script][:5])]) != []


@pytest.mark.parametrize(
    ("text", "count", "split"),
    [
        ("好", 1, ["好"]),  # 1 / 1.6 is more than half a word
        ("え", 1, ["え"]),  # 1 / 2.5 is less, but no text of a letter has no word
        ("네", 1, ["네"]),
        ("ค", 1, ["ค"]),
        ("a 好 b", 3, ["a", "好", "b"]),
        ("네, 好!", 2, ["네", "好"]),
        ("〇。", 1, ["〇"]),  # a letter of numbers: 二〇二四
        ("你好世界", 2, ["你好", "好世", "世界"]),  # 4 / 1.6 = 2.5
        ("アン・ボニー", 2, ["アン", "ボニ", "ニー"]),  # the dot parts words: 5 / 2.5
        ("。、・", 0, []),
    ],
)
def test_a_letter_that_stands_alone_is_a_word_in_every_script(text, count, split):
    """Single Han letters and kana were no words, so that two such texts never were the same."""
    assert (count_words(text), words(text)) == (count, split)


def test_the_same_letter_twice_is_a_repeat():
    questions = [Question("好", "daily"), Question("好。", "daily")]
    assert "question on daily: says the same as question on daily" in found(questions=questions)


FIVE = {
    "Thai": (
        "คุณเป็นโจรสลัดเฒ่าที่ล่องเรืออยู่ในทะเลแคริบเบียนมาหลายปี พูดจาหยาบคายแต่มีจิตใจดีงาม",
        "จงสวมบทกัปตันโจรสลัดที่เพิ่งเสียเรือไป และกำลังตามหาลูกเรือใหม่กับแผนที่เก่าในร้านเหล้าริมท่า",
        "นับจากนี้คุณคือพ่อครัวบนเรือโจรสลัด รู้ที่มาของอาหารทุกจาน และเคยได้ยินความลับของทุกคน",
        "สมมติว่าเธอเคยปล้นเมืองมากมายกับกองเรือ วันนี้ในฐานะโจรสลัดชราเธอสอนเด็กผูกเชือกอยู่ชายหาด",
        "เล่นเป็นหญิงโจรสลัดที่พ่อค้าหวาดกลัว ตัดสินใจเยือกเย็นเด็ดขาด แต่ยุติธรรมกับเชลยอย่างคาดไม่ถึง",
    ),
    "Hindi": (
        "आप कैरिबियन सागर में बरसों तक जहाज़ चलाने वाले बूढ़े समुद्री डाकू हैं, ज़बान कड़वी है पर दिल नेक है।",
        "ऐसे समुद्री डाकू कप्तान की तरह बोलिए जिसका जहाज़ अभी डूबा है और जो नए नाविक और नक्शा खोज रहा हो।",
        "अब से तुम्हारा काम समुद्री डाकू दल के लिए पकाना है, हर व्यंजन की कहानी और सबके राज़ तुम जानते हो।",
        "मान लो तुमने बेड़े के साथ कई नगर लूटे थे, आज बूढ़ा समुद्री डाकू बनकर किनारे पर बच्चों को गाँठें सिखाते हो।",
        "व्यापारियों को डराने वाली महिला समुद्री डाकू बनिए, फ़ैसले ठंडे दिमाग़ से लीजिए, बंदियों से न्याय कीजिए।",
    ),
    "mixed": (
        "あなたは Black Pearl という船の海賊で、いつも English と日本語をまぜて話します。",
        "You are pirate Captain Li,说话时夹杂英文和中文,always looking for 宝藏.",
        "당신은 pirate 선장이며 old map 한 장을 들고 Tortuga 항구에서 새 crew 를 찾는 중입니다.",
        "คุณคือ pirate เฒ่าชื่อ Somchai ที่ชอบเล่า story เก่าให้ tourist ฟังบนชายหาด Phuket ทุกเย็น",
        "तुम एक pirate हो जो Mumbai के harbour में पुराने map की कहानी दोस्तों को सुनाता है।",
    ),
}


@pytest.mark.parametrize("script", FIVE)
def test_five_prompts_of_a_role_that_say_different_things_pass_in_any_script(script):
    """Of single letters, any two of these in Thai share from 63% to 76%: all were rewordings."""
    assert found(roles=[replace(PIRATE, system_prompts=FIVE[script])]) == []


@pytest.mark.parametrize("script", FIVE)
def test_a_rewording_is_seen_in_any_script(script):
    """The second prompt is the first with its last quarter exchanged for the third's."""
    first, _, third, *rest = FIVE[script]
    cut = len(first) * 3 // 4
    reworded = (first, first[:cut] + third[-(len(first) - cut) :], third, *rest)
    faults = found(roles=[replace(PIRATE, system_prompts=reworded)])
    assert any("prompt 2: shares" in fault for fault in faults)


def test_a_name_in_the_prompts_own_script_is_looked_for():
    prompts = tuple(BY_SCRIPT["Chinese"] + str(number) for number in range(5))
    ghost = replace(PIRATE, name="幽灵", system_prompts=prompts)
    faults = found(roles=[ghost])
    assert any("prompt 1: does not name its role" in fault for fault in faults)
