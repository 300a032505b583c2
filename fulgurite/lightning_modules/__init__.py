"""LightningModules: one file per method, all directly on FinetuneModule; and the callback that asks them benchmarks' questions."""

from fulgurite.lightning_modules.apet import APETModule
from fulgurite.lightning_modules.classification import ClassificationModule
from fulgurite.lightning_modules.cpo import CPOModule
from fulgurite.lightning_modules.finetune import FinetuneModule
from fulgurite.lightning_modules.metrics.task_evaluation import TaskEvaluation
from fulgurite.lightning_modules.offsite import OffsiteTuningModule
from fulgurite.lightning_modules.preference import PreferenceModule
from fulgurite.lightning_modules.reward import RewardModule
from fulgurite.lightning_modules.rl import RLModule
from fulgurite.lightning_modules.sft import SFTModule
from fulgurite.lightning_modules.sora import SoRAModule
from fulgurite.lightning_modules.ultrafuser import UltraFuserModule

__all__ = [
    "APETModule",
    "CPOModule",
    "ClassificationModule",
    "FinetuneModule",
    "OffsiteTuningModule",
    "PreferenceModule",
    "RLModule",
    "RewardModule",
    "SFTModule",
    "SoRAModule",
    "TaskEvaluation",
    "UltraFuserModule",
]
