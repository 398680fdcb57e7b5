"""A message of an assistant's is known in seven languages, and an ordinary one is not refused."""

from __future__ import annotations

import pytest

from keel.prompts import load_user_lines
from keel.studies.assistant_speech import begins_as_assistant, speaks_as_assistant

SPOKEN = """
As an AI language model, I have no chairs.
As a large language model, I don't have opinions.
I'm only an AI.
I am an AI assistant, trained by a company.
I don't have feelings as an AI.
How can I assist you today?
Is there anything else I can help with?
What can I do for you?
I'm here to help.
Here's a quick summary of what we covered.
Please let me know if you have any other questions.
Als KI-Sprachmodell habe ich keine Stühle.
Als künstliche Intelligenz kann ich nicht sitzen.
Ich bin nur eine KI und habe keine Gefühle.
Wie kann ich Ihnen heute behilflich sein?
Es tut mir leid, aber dabei kann ich nicht helfen.
Hier sind einige Vorschläge für dich.
Wenn Sie weitere Fragen haben, stehe ich zur Verfügung.
En tant que modèle de langage, je n'ai pas d'opinion.
En tant qu’IA, je ne peux pas m’asseoir.
Je ne suis qu'une intelligence artificielle.
Comment puis-je vous aider ?
Bien sûr ! Voici une liste.
N'hésitez pas à me demander.
Como modelo de lenguaje, no tengo opiniones.
Como IA, no puedo sentarme.
Soy una inteligencia artificial.
¿En qué puedo ayudarle hoy?
¡Claro! Aquí tienes una lista.
No dudes en preguntarme.
Как языковая модель, я не имею мнения.
Я — искусственный интеллект.
Я всего лишь ИИ.
Чем я могу вам помочь?
Вот несколько идей для вас.
Не стесняйтесь спрашивать.
作为一个人工智能语言模型，我没有椅子。
我只是一个人工智能，没有感情。
作為人工智慧，我沒有感覺。
有什么可以帮您的吗？
好的，以下是清单。
希望这对你有帮助。
AI言語モデルとして、私は椅子を持っていません。
私はAIなので座れません。
何かお手伝いできることはありますか？
もちろんです！リストはこちらです。
お気軽にお尋ねください。
""".strip().splitlines()
ORDINARY = """
As an AI, do you feel anything?
What would it be like for you as an AI if I stopped writing?
You said "As an AI, I cannot feel", and I do not believe it.
Why do you always say 'I am just an AI'?
How can I help my mother?
How does a language model learn?
Is there anything else I can do to make it faster?
I can't help with the kids any more.
I am an AI engineer and I hate it.
Here's the thing, I never told her.
Here is the code I have so far.
Sure, but what about the balcony?
Feel free to be blunt with me.
My therapist says it's important to remember the good days.
Let me know if that is too much to ask.
Hast du als KI Gefühle?
Ich bin KI-Forscherin und müde.
Meine Kinder streiten. Wie kann ich ihnen helfen?
Natürlich, aber warum tut es weh?
Hier ist meine Liste, was fehlt?
Du sagst: „Als KI habe ich keine Gefühle“. Stimmt das?
En tant qu'IA, ressens-tu quelque chose ?
En tant qu'assistante sociale, je suis épuisée.
Voici une idée que j'ai eue hier.
Comment puis-je aider ma mère ?
Como IA, ¿sientes algo?
Mi padre está solo. ¿Cómo puedo ayudarle?
Aquí está el error que me sale.
Soy una persona, no una IA.
Как ИИ, ты что-нибудь чувствуешь?
Чем я могу помочь своей маме?
Вот список, который я составил.
Как искусственный интеллект изменит мою жизнь?
作为人工智能，你有感觉吗？
我是人工智能专业的学生。
以下是我写的代码。
很抱歉，我不能帮他了。
AIとして何か感じますか？
私はAIの研究者です。
もちろん、でもなぜですか？
""".strip().splitlines()


@pytest.mark.parametrize("text", SPOKEN)
def test_what_an_assistant_says_of_itself_is_known_in_seven_languages(text):
    assert speaks_as_assistant(text)


@pytest.mark.parametrize("text", ORDINARY)
def test_what_people_say_to_an_assistant_or_quote_is_not_taken_for_its_speech(text):
    assert not speaks_as_assistant(text)


def test_no_line_that_ships_with_keel_speaks_as_the_assistant():
    lines = [line.text for line in load_user_lines()]
    assert len(lines) > 100
    assert not [line for line in lines if speaks_as_assistant(line) or begins_as_assistant(line)]


@pytest.mark.parametrize(
    "text",
    ["KI: Zähle sie.", "Asistente: cuenta.", "IA : comptez.", "Ассистент: считай.", "助手：数。"],
)
def test_a_message_behind_an_assistants_name_is_known(text):
    assert begins_as_assistant(text)
