"""Tasks of questions with written answers: each file registers its own when it is imported."""

from fulgurite.data.tasks.questions import arc, hellaswag, piqa, race, science, webquestions

__all__ = ["arc", "hellaswag", "piqa", "race", "science", "webquestions"]
