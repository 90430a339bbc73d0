"""GPT-2 and Llama from a configuration train with our modules and AdamW as with torch's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers: Any = pytest.importorskip("transformers", exc_type=ImportError)

import gradstep.torch as gt  # noqa: E402

# The libraries warn of deprecations and of the missing GPU.
pytestmark = pytest.mark.filterwarnings("ignore")

WORDS, LENGTH = 64, 12


def gpt2() -> Any:
    config = transformers.GPT2Config(
        vocab_size=WORDS,
        n_positions=LENGTH,
        n_embd=16,
        n_layer=2,
        n_head=2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.GPT2LMHeadModel(config)


def llama() -> Any:
    config = transformers.LlamaConfig(
        vocab_size=WORDS,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
    )
    return transformers.LlamaForCausalLM(config)


# The norms of each, all of which have to be ours.
MODELS = {"gpt2": (gpt2, 5), "llama": (llama, 5)}


class Texts(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> Any:
        words = torch.randint(0, WORDS, (LENGTH,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": words, "labels": words}


def model_of(name: str, ours: bool) -> Any:
    make, norms = MODELS[name]
    torch.manual_seed(0)
    model = make()
    if ours:
        report = gt.accelerate(model)
        replaced = [now for _, now in report.replaced.values() if "norm" in now.lower()]
        assert len(replaced) == norms and not report.left
    return model


def trained(name: str, ours: bool, folder: Path, steps: int, resume: bool = False) -> Any:
    model = model_of(name, ours)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        max_grad_norm=1.0,
        lr_scheduler_type="constant",
        save_steps=3,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    kind = gt.AdamW if ours else torch.optim.AdamW
    trainer = transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=Texts(),
        optimizers=(kind(model.parameters(), lr=1e-2, weight_decay=0.0), None),
    )
    trainer.train(resume_from_checkpoint=resume or None)
    return model


def assert_same(ours: Any, theirs: Any) -> None:
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, rtol=1e-3, atol=2e-4, msg=key)


@pytest.mark.parametrize("name", MODELS)
def test_the_trainer_gives_what_stock_gives_also_resumed(name: str, tmp_path: Path) -> None:
    expected = trained(name, False, tmp_path / "stock", 6)
    assert_same(trained(name, True, tmp_path / "ours", 6), expected)
    trained(name, True, tmp_path / "parts", 3)
    assert_same(trained(name, True, tmp_path / "parts", 6, resume=True), expected)


@pytest.mark.parametrize("name", MODELS)
def test_checkpointing_of_activations_and_generation(name: str) -> None:
    ours, theirs = model_of(name, True), model_of(name, False)
    words = Texts()[0]["input_ids"][None]
    for model in (ours, theirs):
        model.gradient_checkpointing_enable()
        model.train()(input_ids=words, labels=words).loss.backward()
    for found, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-3, atol=1e-4)
    tokens = [
        model.eval().generate(words[:, :4], max_new_tokens=4, do_sample=False, pad_token_id=0)
        for model in (ours, theirs)
    ]
    assert tokens[0].equal(tokens[1])


@pytest.mark.parametrize("name", MODELS)
def test_saved_by_transformers_and_loaded(name: str, tmp_path: Path) -> None:
    ours = model_of(name, True).eval()
    ours.save_pretrained(tmp_path)
    again = type(ours).from_pretrained(tmp_path).eval()
    words = Texts()[0]["input_ids"][None]
    torch.testing.assert_close(ours(words).logits, again(words).logits, rtol=1e-4, atol=1e-5)
