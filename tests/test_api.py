"""The names that users type, frozen: a change here is a change for every user, and belongs into CHANGELOG.md."""

from __future__ import annotations

import importlib
import inspect

import pytest

PUBLIC = {
    "fulgurite.kernels": [
        "FusedTokenScores",
        "SparsePlan",
        "TokenScores",
        "current_backend",
        "fused_log_probs",
        "fused_logits",
        "fused_token_scores",
        "gated_lora_linear",
        "linear_cross_entropy",
        "linear_log_probs",
        "linear_token_scores",
        "live_values",
        "plan_sparse_delta",
        "proximal_adamw_step_",
        "soft_threshold_",
        "sparse_delta_embedding",
        "sparse_delta_linear",
        "use_backend",
        "write_live_",
    ],
    "fulgurite.adapters": [
        "APET",
        "Adapter",
        "AdapterConfig",
        "BitFit",
        "Bottleneck",
        "LoRA",
        "LowRankAdapter",
        "RankRow",
        "SoRA",
        "SoftPrompt",
        "SparseAdapter",
        "attach",
        "eligible_scalars",
        "find_adapters",
        "fisher_scores",
        "load_adapter",
        "positions_in",
        "read_adapter_config",
        "within_budget",
    ],
    "fulgurite.optim": [
        "LR_SHAPES",
        "ProximalAdamW",
        "StagedSchedule",
        "threshold_stages",
    ],
    "fulgurite.losses": [
        "Completions",
        "LossParts",
        "Mean",
        "PREFERENCE_LOSSES",
        "PolicyLoss",
        "PreferenceLoss",
        "RewardLoss",
        "gae",
        "group_relative",
        "group_table",
        "kl_baseline",
        "kl_estimate",
        "kto_weight_warning",
        "kway_loss",
        "leave_one_out",
        "means",
        "pairs_of_groups",
        "preference_metrics",
        "sampler_weights",
        "value_loss",
    ],
    "fulgurite.models": [
        "Backbone",
        "Emulator",
        "FusedGeneration",
        "FusedNetwork",
        "FusedStates",
        "HeadBranch",
        "OutputHead",
        "LAYOUTS",
        "PACKABLE",
        "RewardModel",
        "RewardOutput",
        "TASKS",
        "average_weights",
        "disable_packing",
        "enable_activation_checkpointing",
        "enable_packing",
        "enable_trees",
        "find_decoder",
        "head_options",
        "linear_cka",
        "load_backbone",
        "load_emulator",
        "load_reward_model",
        "output_head",
        "packed_inputs",
        "prove_head",
        "prove_packing",
        "save_reward_model",
        "save_sequence_classification",
        "structure_of",
        "task_arithmetic",
        "usable_head",
    ],
    "fulgurite.evaluation": [
        "BenchmarkItem",
        "BenchmarkResult",
        "ControlReport",
        "FusedAnswer",
        "GenerationSettings",
        "LoadedModel",
        "RewardScorer",
        "answer_log_probs",
        "ask",
        "benchmark_items",
        "conditions_to_ask",
        "exact_match",
        "generate_from_ids",
        "generate_fused",
        "generate_text",
        "load_for_generation",
        "pareto_front",
        "rouge_l",
        "score_benchmark",
        "select_answers",
        "spearman",
        "token_f1",
    ],
    "fulgurite.generation": [
        "Backend",
        "FusedAnswer",
        "FusedBackend",
        "GenerationSettings",
        "LoadedModel",
        "Request",
        "Sample",
        "SamplingSettings",
        "ServerBackend",
        "ServerError",
        "TransformersBackend",
        "by_request",
        "generate_from_ids",
        "generate_fused",
        "generate_text",
        "load_for_generation",
        "sample_seed",
    ],
    "fulgurite.lightning_modules": [
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
    ],
    "fulgurite.datamodules": [
        "CPODataModule",
        "ChoiceTasksDataModule",
        "ConversationDataModule",
        "FilesDataModule",
        "GLUEDataModule",
        "PETTasksDataModule",
        "PreferenceDataModule",
        "PromptsDataModule",
        "SFTDataModule",
        "TextDataModule",
        "UltraChat2DataModule",
        "UltraChatDataModule",
        "UltraCritiqueDataModule",
        "UltraFeedbackDataModule",
        "UltraInteractDataModule",
        "UltraInteractPairDataModule",
        "UltraLinkDataModule",
        "UltraSafetyDataModule",
    ],
    "fulgurite.callbacks": [
        "AdapterCheckpoint",
        "GateReport",
        "GenerationSamples",
        "LearningCurve",
        "PolicyReport",
        "RandomState",
        "RewardReport",
        "RewardTrend",
        "RunLog",
        "SamplePrinter",
        "SparsityReport",
        "Throughput",
    ],
}

SIGNATURES = {
    "fulgurite.kernels.gated_lora_linear": "x weight bias lora_a gate lora_b scaling dropout=0.0",
    "fulgurite.kernels.live_values": "tensor delta index",
    "fulgurite.kernels.plan_sparse_delta": "index shape",
    "fulgurite.kernels.soft_threshold_": "value threshold",
    "fulgurite.kernels.sparse_delta_embedding": "ids weight delta index padding_idx=None",
    "fulgurite.kernels.sparse_delta_linear": "x weight bias delta index transposed=False plan=None recompute=True",
    "fulgurite.kernels.write_live_": "tensor index base delta=None",
    "fulgurite.kernels.use_backend": "name",
    "fulgurite.adapters.attach": "model config train=() name='default' check_forward=True positions=None scores=None",
    "fulgurite.adapters.APET": "budget=None selection='uniform_scalar' seed=0 targets='all' mask=None storage='seed'",
    "fulgurite.adapters.SparseAdapter.export_shira": "self folder base_model=None task_type=None",
    "fulgurite.adapters.fisher_scores": "model batches loss_fn targets='all' train=() chunk=268435456",
    "fulgurite.adapters.load_adapter": "model folder name=None",
    "fulgurite.adapters.LoRA": "rank=8 alpha=16.0 dropout=0.0 targets='all-linear'",
    "fulgurite.adapters.Adapter.merge": "self reversible=False",
    "fulgurite.adapters.Adapter.save": "self folder",
    "fulgurite.adapters.Adapter.export_peft": "self folder rank_pattern=False base_model=None task_type=None",
    "fulgurite.adapters.Adapter.param_groups": "self lr weight_decay=0.0 gate_lr=None head_lr=None",
    "fulgurite.optim.ProximalAdamW": "params lr=0.001 betas=(0.9, 0.999) eps=1e-08 weight_decay=0.01 foreach=None fused=None",
    "fulgurite.kernels.linear_log_probs": (
        "hidden weight targets bias=None ignore_index=-100 logit_scale=1.0 softcap=None lora_a=None gate=None "
        "lora_b=None scaling=1.0"
    ),
    "fulgurite.kernels.fused_log_probs": (
        "hiddens weights gate_scores targets ignore_index=-100 blend='logits' options=None names=None"
    ),
    "fulgurite.kernels.linear_cross_entropy": (
        "hidden weight targets bias=None ignore_index=-100 logit_scale=1.0 softcap=None lora_a=None gate=None "
        "lora_b=None scaling=1.0"
    ),
    "fulgurite.losses.PreferenceLoss": (
        "names weights=None beta=0.1 label_smoothing=0.0 gamma_ratio=0.5 cpo_alpha=1.0 desirable_weight=1.0 "
        "undesirable_weight=1.0 temperature=0.0001 length_normalise=True nll_over='completion'"
    ),
}

OPTIONS = {
    "fulgurite.lightning_modules.SoRAModule": (
        "backbone task rank alpha dropout targets threshold threshold_scaling prox gate_init l1 patience look_every schedule "
        "stages max_threshold stage_epochs learning_rate head_learning_rate gate_learning_rate weight_decay warmup_ratio "
        "lr_schedule num_labels dtype quantize resize_embeddings gradient_checkpointing kernels trust_remote_code"
    ),
    "fulgurite.lightning_modules.ClassificationModule": (
        "backbone task adapter learning_rate head_learning_rate gate_learning_rate weight_decay warmup_ratio lr_schedule "
        "num_labels dtype quantize resize_embeddings gradient_checkpointing kernels trust_remote_code"
    ),
    "fulgurite.lightning_modules.SFTModule": (
        "backbone task adapter learning_rate gate_learning_rate weight_decay warmup_ratio lr_schedule dtype quantize "
        "resize_embeddings from_scratch gradient_checkpointing kernels trust_remote_code"
    ),
    "fulgurite.lightning_modules.OffsiteTuningModule": (
        "backbone adapter learning_rate gate_learning_rate weight_decay warmup_ratio lr_schedule dtype gradient_checkpointing "
        "kernels trust_remote_code"
    ),
    "fulgurite.lightning_modules.APETModule": (
        "backbone task budget selection seed targets mask storage score_batches learning_rate head_learning_rate weight_decay "
        "warmup_ratio lr_schedule num_labels dtype gradient_checkpointing kernels trust_remote_code"
    ),
    "fulgurite.datamodules.PETTasksDataModule": (
        "task path revision task_type verbaliser max_answer_length generate limit_eval tokenizer batch_size eval_batch_size "
        "max_length num_workers seed cache_dir limit_train pad_multiple"
    ),
    "fulgurite.datamodules.ChoiceTasksDataModule": (
        "task path val_path test_path blank on_bad_row val_fraction tokenizer batch_size eval_batch_size max_length num_workers "
        "seed cache_dir limit_train pad_multiple"
    ),
    "fulgurite.datamodules.GLUEDataModule": (
        "task path revision splits mismatched tokenizer batch_size eval_batch_size max_length num_workers seed cache_dir "
        "limit_train pad_multiple"
    ),
    "fulgurite.lightning_modules.PreferenceModule": (
        "backbone loss loss_weights adapter init_adapter reference_model cache_reference reference_cache beta "
        "label_smoothing gamma_ratio cpo_alpha desirable_weight undesirable_weight temperature use_margin learning_rate "
        "gate_learning_rate weight_decay warmup_ratio lr_schedule dtype quantize gradient_checkpointing kernels "
        "trust_remote_code"
    ),
    "fulgurite.lightning_modules.RewardModule": (
        "backbone loss use_margin ranking_weight direct_weight centring temperature head adapter learning_rate "
        "head_learning_rate gate_learning_rate weight_decay warmup_ratio lr_schedule dtype quantize gradient_checkpointing "
        "kernels trust_remote_code"
    ),
    "fulgurite.lightning_modules.CPOModule": (
        "backbone stage adapter init_adapter cache_reference reference_cache beta learning_rate gate_learning_rate "
        "weight_decay warmup_ratio lr_schedule dtype quantize gradient_checkpointing kernels trust_remote_code"
    ),
    "fulgurite.datamodules.CPODataModule": (
        "stage path val_path test_path schema columns objectives spelling objective_weights distance_weights control "
        "conditions_per_row buckets template supervise trees packing token_budget on_bad_row val_fraction revision "
        "tokenizer batch_size eval_batch_size max_length num_workers seed cache_dir limit_train pad_multiple"
    ),
    "fulgurite.datamodules.SFTDataModule": (
        "path val_path test_path schema columns template supervise task_type packing too_long on_bad_row val_fraction "
        "weights mixing revision tokenizer batch_size eval_batch_size max_length num_workers seed cache_dir limit_train "
        "pad_multiple"
    ),
    "fulgurite.datamodules.UltraLinkDataModule": (
        "languages path val_path test_path schema columns template supervise task_type packing too_long on_bad_row "
        "val_fraction weights mixing revision tokenizer batch_size eval_batch_size max_length num_workers seed "
        "cache_dir limit_train pad_multiple"
    ),
    "fulgurite.lightning_modules.RLModule": (
        "backbone rewards reward_weights advantage advantage_scale adapter init_adapter answers max_new_tokens temperature top_p "
        "top_k drawn_at_once redraw_groups mask_truncated truncation_penalty beta kl_in kl_estimate kl_target kl_horizon kl_bound "
        "clip clip_high dual_clip ratio loss_mean correction correction_cap inner_epochs minibatches gamma gae_lambda whiten "
        "value_weight value_clip value_learning_rate baseline_decay max_grad_norm token_budget packing sandbox seed learning_rate "
        "gate_learning_rate weight_decay warmup_ratio lr_schedule dtype gradient_checkpointing kernels trust_remote_code"
    ),
    "fulgurite.datamodules.PromptsDataModule": (
        "path val_path test_path schema columns template as_chat on_bad_row val_fraction revision tokenizer batch_size "
        "eval_batch_size max_length num_workers seed limit_train"
    ),
    "fulgurite.datamodules.PreferenceDataModule": (
        "path val_path test_path schema columns as_chat template objective_kind pair_rule ties score margin_scale augment "
        "trees packing token_budget on_bad_row val_fraction weights mixing revision tokenizer batch_size eval_batch_size "
        "max_length num_workers seed cache_dir limit_train pad_multiple"
    ),
}


def find(path: str):
    parts = path.split(".")
    for split in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        for part in parts[split:]:
            found = getattr(found, part)
        return found
    raise AssertionError(path)


@pytest.mark.parametrize("package", PUBLIC)
def test_public_names(package):
    module = importlib.import_module(package)
    assert sorted(module.__all__) == sorted(PUBLIC[package])
    undocumented = [
        name
        for name in module.__all__
        if name not in ("LAYOUTS", "LR_SHAPES", "PACKABLE", "PREFERENCE_LOSSES", "TASKS")
        and not inspect.getdoc(getattr(module, name))
    ]
    assert not undocumented


@pytest.mark.parametrize("path", SIGNATURES)
def test_signatures(path):
    parameters = inspect.signature(find(path)).parameters.values()
    shown = [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters]
    assert " ".join(shown) == SIGNATURES[path]


@pytest.mark.parametrize("path", OPTIONS)
def test_options_of_the_command_line(path):
    assert " ".join(inspect.signature(find(path)).parameters) == OPTIONS[path]
