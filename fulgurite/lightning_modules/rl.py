r"""Reinforcement learning on rewards: PPO, RLOO, GRPO and their kin, drawing in the process that trains.

A step draws ``answers`` answers to each prompt of a batch from the policy as it is, rewards them, and takes some optimizer steps on
them (:mod:`fulgurite.losses.policy`, :mod:`fulgurite.losses.advantages`):

    PPO        advantage "gae", a value head on the policy's states, KL in the reward     Schulman et al. 2017, arXiv 1707.06347
    RLOO       advantage "rloo"                                                           Ahmadian et al. 2024, arXiv 2402.14740
    GRPO       advantage "group", loss_mean "answer", KL in the loss                      Shao et al. 2024, arXiv 2402.03300
    Dr. GRPO   advantage "group", advantage_scale "none", loss_mean "constant"            Liu et al. 2025, arXiv 2503.20783
    GSPO       advantage "group", ratio "sequence"                                        Zheng et al. 2025, arXiv 2507.18071

The prompt is read once for all its answers, in drawing and in training (one tree per prompt). The reference is the base with the
adapter switched off, or a frozen second copy under full tuning. UltraFeedback (Cui et al., arXiv 2310.01377) ends in PPO on its
reward model. Dropout is off: sampler, policy and reference must differ by their weights alone.

The module steps its optimizer itself (Lightning's manual optimization): ``trainer.global_step`` and ``max_steps`` count optimizer
steps, of which a batch takes inner_epochs × minibatches. What the last step drew depends on the seed and on ``global_step`` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from fulgurite.adapters import AdapterConfig
from fulgurite.data.encoding.templates import lay_stored
from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.data.inherited_options import inherits_options
from fulgurite.data.playground import resolve_backbone
from fulgurite.generation.protocol import SamplingSettings
from fulgurite.lightning_modules.checks.hyperparameters import remember
from fulgurite.lightning_modules.checks.initial_weights import merge_adapter
from fulgurite.lightning_modules.checks.policy import check_estimator, check_kl, check_run, check_sampling, check_window
from fulgurite.lightning_modules.finetune import FinetuneModule
from fulgurite.lightning_modules.metrics.drawn import DrawnAnswers
from fulgurite.lightning_modules.objectives.policy import PolicyObjective
from fulgurite.lightning_modules.processes.agreeing import summed
from fulgurite.lightning_modules.reference.model import Reference
from fulgurite.lightning_modules.rollouts.control import KLControl
from fulgurite.lightning_modules.rollouts.credit import Credit, Estimator
from fulgurite.lightning_modules.rollouts.drawing import Group, PolicySampler
from fulgurite.lightning_modules.rollouts.figures import rates
from fulgurite.lightning_modules.rollouts.packs import Trees
from fulgurite.lightning_modules.rollouts.rewards import Rewards
from fulgurite.lightning_modules.rollouts.rolling import roll_out
from fulgurite.lightning_modules.rollouts.scoring import Scoring
from fulgurite.lightning_modules.rollouts.updating import update
from fulgurite.lightning_modules.rollouts.watching import Watch
from fulgurite.losses.advantages import Scale
from fulgurite.losses.policy import Estimate, Level, PolicyLoss, TokenMean
from fulgurite.models.dropout import switch_dropout_off
from fulgurite.optim import StagedSchedule

__all__ = ["RLModule"]

_SHOWN = 3  # validation prompts whose answers are kept to be shown


@inherits_options(
    FinetuneModule,
    without=("task", "head_learning_rate", "num_labels", "quantize", "resize_embeddings", "from_scratch"),
    learning_rate=1e-5,
    warmup_ratio=0.0,
    lr_schedule="constant",
)
class RLModule(FinetuneModule):
    """Train a causal language model on rewards of the answers that it draws.

    Args:
        rewards: one or several: a task whose checker judges answers (gsm8k, mbpp, …), a reward model (.ckpt, folder or hub id), a
            registered reward, or module:function.
        reward_weights: factor of each reward (default: 1 each).
        advantage: "gae" (PPO, with a value head), "rloo", "group" (GRPO), or "reinforce" with a moving baseline.
        advantage_scale: of "group": divide by the s.d. of the "group", of the "batch", or "none".
        adapter: LoRA, SoRA, APET, or nothing to train the whole network.
        init_adapter: SFT adapter merged into the base first: a folder (`fulgurite export --format adapter`), a .ckpt file, or a
            specialist of the playground.
        answers: drawn for each prompt.
        max_new_tokens: tokens of an answer at most.
        temperature: of the draws; the trainer's log-probabilities take it too.
        top_p: draw from the likeliest tokens that together have this probability.
        top_k: draw from that many tokens; 0 for all.
        drawn_at_once: answers that are written at once.
        redraw_groups: how often a prompt is drawn again in a step while all its answers have one reward ("group", "rloo").
        mask_truncated: leave answers without an end token out of the loss; they still count in their group's mean.
        truncation_penalty: taken off the reward of an answer without an end token.
        beta: weight of KL to the reference; 0 for checkers and 0.05 for reward models are usual.
        kl_in: "reward" or "loss" (default: loss for group, reward for the others).
        kl_estimate: "k1", "k2" or "k3" (default: k1 in the reward, k3 in the loss).
        kl_target: move beta so that KL stays near so many nats per answer (default: beta is fixed).
        kl_horizon: answers after which beta may have changed by a fifth.
        kl_bound: end the run when KL is above so many nats per answer.
        clip: of the ratio, below and above 1.
        clip_high: above 1, where it differs.
        dual_clip: bound on the ratio of a bad token; 3 is usual.
        ratio: of each "token", or one for the "sequence" (GSPO).
        loss_mean: over all tokens ("token"), of answers' means ("answer"), or by a constant length ("constant").
        correction: weigh by the trainer's against the sampler's probability of each "token", of the "sequence", or "none".
        correction_cap: largest such weight.
        inner_epochs: times that a step's answers are trained on.
        minibatches: optimizer steps of each such time, on equal parts of the prompts.
        gamma: discount of gae.
        gae_lambda: lambda of gae.
        whiten: of gae: advantages of mean 0 and variance 1.
        value_weight: factor of the value loss (gae).
        value_clip: how far a value may move before its loss is clipped (gae).
        value_learning_rate: of the value head (default: ten times learning_rate).
        baseline_decay: of reinforce: share of the old mean in the moving one.
        max_grad_norm: gradients are clipped to it; 0 for no clipping.
        token_budget: tokens of the trees of one forward at most; a larger tree is one forward.
        packing: one tree per prompt; false for a padded row per answer, which every architecture takes.
        sandbox: how programs of code tasks are held: auto, strict, or the name of a layer.
        seed: of the draws.
        learning_rate: peak learning rate; 1e-6 is usual for full tuning, 1e-5 and more for adapters.
    """

    data_task = "prompts"

    def __init__(
        self,
        backbone: str,
        rewards: str | list[str],
        reward_weights: list[float] | None = None,
        advantage: Estimator = "group",
        advantage_scale: Scale = "group",
        adapter: AdapterConfig | None = None,
        init_adapter: str | None = None,
        answers: int = 8,
        max_new_tokens: int = 256,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        drawn_at_once: int = 64,
        redraw_groups: int = 0,
        mask_truncated: bool = False,
        truncation_penalty: float = 0.0,
        beta: float = 0.0,
        kl_in: Literal["reward", "loss"] | None = None,
        kl_estimate: Estimate | None = None,
        kl_target: float | None = None,
        kl_horizon: int = 10_000,
        kl_bound: float | None = None,
        clip: float = 0.2,
        clip_high: float | None = None,
        dual_clip: float | None = None,
        ratio: Level = "token",
        loss_mean: TokenMean = "token",
        correction: Literal["token", "sequence", "none"] = "token",
        correction_cap: float = 3.0,
        inner_epochs: int = 1,
        minibatches: int = 1,
        gamma: float = 1.0,
        gae_lambda: float = 0.95,
        whiten: bool = True,
        value_weight: float = 0.1,
        value_clip: float = 0.2,
        value_learning_rate: float | None = None,
        baseline_decay: float = 0.9,
        max_grad_norm: float = 1.0,
        token_budget: int = 8192,
        packing: bool = True,
        sandbox: str = "auto",
        seed: int = 0,
        **options: Any,
    ) -> None:
        arguments = {**locals(), **options}
        super().__init__(task="causal_lm", backbone=backbone, adapter=adapter, **options)
        remember(self, arguments, RLModule)
        self.automatic_optimization = False
        check_estimator(RLModule, arguments)
        check_sampling(arguments)
        kl_in = kl_in or ("loss" if advantage == "group" else "reward")
        estimate: Estimate = kl_estimate or ("k1" if kl_in == "reward" else "k3")
        check_kl(beta, arguments["kl_in"], kl_estimate, kl_in, estimate)
        self.init_adapter, self.packing, self.token_budget = init_adapter, packing, token_budget
        self.answers, self.drawn_at_once, self.redraw_groups, self.seed = answers, drawn_at_once, redraw_groups, seed
        self.mask_truncated, self.truncation_penalty = mask_truncated, truncation_penalty
        self.inner_epochs, self.minibatches, self.max_grad_norm = inner_epochs, minibatches, max_grad_norm
        self.value_learning_rate = value_learning_rate
        self.sampling = SamplingSettings(max_new_tokens, temperature, top_p, top_k)
        self.kl = KLControl(beta, kl_target, kl_horizon, kl_bound)
        self.credit = Credit(advantage, advantage_scale, gamma, gae_lambda, whiten, baseline_decay)
        self.value_head: nn.Linear | None = None
        in_loss = beta > 0 and kl_in == "loss"
        self.policy = PolicyObjective(
            PolicyLoss(clip, clip_high, dual_clip, ratio, loss_mean, max_new_tokens),
            temperature=temperature,
            kl=estimate if in_loss else None,
            values=self._values if advantage == "gae" else None,
            value_weight=value_weight,
            value_clip=value_clip,
        )
        self.objective = self.policy
        self.reference = Reference(self)
        self.rewards = Rewards([rewards] if isinstance(rewards, str) else rewards, reward_weights, sandbox)
        # Without an adapter a reference is a second copy in memory: only where KL decides something.
        asks_reference = adapter is not None or beta > 0 or kl_bound is not None
        self.scoring = Scoring(
            self.policy,
            self.credit,
            self.reference if asks_reference else None,
            in_reward=estimate if beta > 0 and kl_in == "reward" else None,
            correction=None if correction == "none" else correction,
            cap=correction_cap,
        )
        self.shown: list[dict[str, Any]] = []  # answers to the first validation prompts
        self._watch = Watch()
        self._sampler: PolicySampler | None = None

    def setup(self, stage: str) -> None:
        """As of every module; a run that it cannot train is refused."""
        super().setup(stage)
        check_run(self.trainer, stage)

    def _build(self) -> None:
        super()._build()
        network: Any = self._network()
        switch_dropout_off(network)
        if self.credit.estimator == "gae":
            width = int(network.config.get_text_config().hidden_size)
            self.value_head = nn.Linear(width, 1)
            # It begins by knowing nothing: a random value would be an advantage of its own.
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)

    def _prepare_base(self, model: nn.Module) -> None:
        """Merge the SFT adapter before the new one is attached."""
        if self.init_adapter is not None:
            merge_adapter(model, resolve_backbone(self.init_adapter))

    def _meet_data(self, model: nn.Module) -> None:
        super()._meet_data(model)
        check_window(model, self.backbone, self._data(), self.sampling.max_new_tokens)

    def _values(self, states: torch.Tensor) -> torch.Tensor:
        assert self.value_head is not None
        with torch.autocast(states.device.type, enabled=False):
            values: torch.Tensor = self.value_head(states.to(self.value_head.weight.dtype)).squeeze(-1)
        return values

    def _measures(self, labels: int, groups: tuple[str, ...], prefix: str) -> Any:
        """Rewards, lengths and cut answers."""
        return DrawnAnswers()

    def _tokenizer(self) -> Any:
        data = self._data()
        if callable(getattr(data, "load_tokenizer", None)):
            return data.load_tokenizer()
        return lay_stored(load_tokenizer(self.backbone), self.chat_template)

    def draw(
        self,
        batch: Any,
        answers: int,
        settings: SamplingSettings,
        penalty: float = 0.0,
        keys: Sequence[str] | None = None,
    ) -> list[Group]:
        """Draw and reward answers to the prompts of a batch.

        Args:
            batch: of PromptsDataModule.
            answers: to each prompt.
            settings: how tokens are drawn, and their seed.
            penalty: taken off the reward of an answer that was cut.
            keys: of a batch that is a part of a step: what tells its prompts' draws from those of equal prompts.
        """
        if not batch["prompt_ids"]:  # one of several processes may have no prompt in the last batch
            return []
        network = self._network()
        if self._sampler is None or self._sampler.model is not network:
            self._sampler = PolicySampler(network, self._tokenizer(), self.drawn_at_once)
        self.rewards.prepare(next(network.parameters()).device)
        groups = self._sampler.draw(batch, answers, settings, keys)
        self.rewards.fill(groups, penalty)
        if keys is None:
            self.rewards.look(groups)
        return groups

    def roll_out(self, batch: Any, step: int) -> tuple[list[Group], Trees | None, dict[str, float]]:
        """What a step draws: its groups, the trees to train on with all their figures, and what is logged.

        Args:
            batch: of PromptsDataModule.
            step: decides, with the module's seed, what is drawn.

        Returns:
            Of several processes, the groups of all and the trees of this one, with advantages over all of them; None for the trees
            where no answer has a reward, or where all are cut and masked.
        """
        return roll_out(self, batch, step)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Draw, reward, and take the optimizer steps of one batch; the mean loss of these."""
        started, step = perf_counter(), self.global_step
        groups, trees, figures = self.roll_out(batch, step)
        # Scoring by the trainer's forward is part of training, not of drawing.
        trained = perf_counter() - figures.pop("scoring_seconds", 0.0)
        figures["draw_seconds"] = trained - started
        loss = torch.zeros((), device=self.device)
        if self._trains(trees, figures):
            assert trees is not None
            loss, more = update(self, trees, step, batch_idx)
            figures |= more
        (computed,) = summed([0 if trees is None else trees.computed], self.device)
        figures |= rates(figures, perf_counter() - trained, computed)
        figures["beta"] = self.kl.beta
        if "kl" in figures:
            self.kl.update(figures["kl"], len(groups) * self.answers)
        for name, value in figures.items():
            self._note(f"train_{name}", value, prog_bar=name in ("reward", "kl"))
        self._note("train_loss", loss)
        return loss

    def _trains(self, trees: Trees | None, figures: dict[str, float]) -> bool:
        """Whether the step's answers are trained on."""
        self._watch(trees is not None, figures)
        if trees is not None and self.kl.exceeded(figures["kl"]):
            rank_zero_warn(
                f"RLModule: KL to the reference is {figures['kl']:.3f} nats per answer, above kl_bound={self.kl.bound:g}; the run "
                "ends here, before another step is taken"
            )
            self.trainer.should_stop = True
            return False
        return trees is not None

    def on_fit_start(self) -> None:
        """Have reference and rewards ready before anything is drawn."""
        super().on_fit_start()
        self.rewards.prepare(self.device)
        if self.scoring.reference is not None:
            self.scoring.reference.hold()

    def on_validation_epoch_start(self) -> None:
        """Answers are shown anew."""
        self.shown = []

    def _evaluate(self, batch: Any, prefix: str) -> None:
        """The likeliest answer to each prompt, without a penalty for cut ones."""
        groups = self._answered(batch)
        getattr(self, prefix + "measures").take_groups(groups)
        for group in groups[: _SHOWN - len(self.shown)]:
            answer = group.answers[0]
            self.shown.append({"prompt": group.turns[-1].content, "answer": answer.text, "reward": answer.reward})

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """``prediction``: the likeliest answer to each prompt; ``reward`` (B,)."""
        answers = [group.answers[0] for group in self._answered(batch)]
        return {"prediction": [a.text for a in answers], "reward": torch.tensor([a.reward for a in answers])}

    def _answered(self, batch: Any) -> list[Group]:
        return self.draw(batch, 1, SamplingSettings(self.sampling.max_new_tokens))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Beside what every module saves: the weight of KL, the moving baseline, and steps without anything to learn."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["policy_training"] = {
            "beta": self.kl.beta,
            "baseline": self.credit.mean,
            "watch": self._watch.state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the value head is there, where one is needed."""
        self._network()
        if self.value_head is not None and "value_head.weight" not in checkpoint["state_dict"]:
            raise ValueError(
                "RLModule: the checkpoint holds no value head (value_head.weight is missing), without which gae has no values. "
                "Give a checkpoint of a run with --model.advantage gae; if a callback filters checkpoints, take AdapterCheckpoint."
            )
        super().on_load_checkpoint(checkpoint)
        state = checkpoint.get("policy_training") or {}
        self.kl.beta = state.get("beta", self.kl.beta)
        self.credit.mean = state.get("baseline")
        self._watch.load(state.get("watch") or {})

    def _param_groups(self) -> list[dict[str, Any]]:
        groups = super()._param_groups()
        if self.value_head is not None:
            rate = self.value_learning_rate or 10 * self.learning_rate
            groups.append(
                {"name": "value_head", "params": list(self.value_head.parameters()), "lr": rate, "weight_decay": 0.0}
            )
        return groups

    def _schedule(self) -> StagedSchedule:
        batches, most = self.trainer.estimated_stepping_batches, self.trainer.max_steps
        if batches == float("inf") or (self.lr_schedule == "constant" and self.warmup_ratio == 0):
            return StagedSchedule([1], 0.0, "constant")
        steps = int(batches) * self.inner_epochs * self.minibatches
        return StagedSchedule([max(1, steps if most < 0 else min(steps, most))], self.warmup_ratio, self.lr_schedule)
