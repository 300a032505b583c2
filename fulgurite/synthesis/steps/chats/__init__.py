"""Steps of UltraChat 2: topics become instructions, instructions become dialogues of two roles, dialogues are balanced."""

from fulgurite.synthesis.steps.chats import balance, complicate, instructions, simulate, subtopics

__all__ = ["balance", "complicate", "instructions", "simulate", "subtopics"]
