"""multismooth.transformers.compute_loss trains as Hugging Face's own losses do, at any accumulation."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from requirements import need

torch = need("torch")

import multismooth  # noqa: E402
from multismooth.transformers import compute_loss  # noqa: E402

B, T, K = 2, 5, 7
LOGITS = torch.from_numpy(np.random.default_rng(0).normal(size=(B, T, K)))
LABELS = torch.tensor([[1, 2, 3, 4, 5], [6, 0, -100, -100, -100]])

IGNORED_SMOOTH = multismooth.Convention(ignore_scope="nll_only", smooth_denominator="all")


class Seq2SeqLMOutput(dict):
    """An output whose labels are aligned, by its name."""


# --- the function ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outputs", [{"logits": LOGITS}, (LOGITS, None)], ids=["dict", "tuple"])
@pytest.mark.parametrize(
    "options",
    [{}, {"logit_softcap": 2.0}, {"convention": "keras"}, {"convention": IGNORED_SMOOTH}, {"ignore_index": None}],
)
def test_the_logits_at_t_meet_the_label_at_t_plus_1(outputs, options):
    """Also where the last position, if it were only ignored, would count for the mean or be smoothed."""
    labels = LABELS.clamp(min=0) if "ignore_index" in options else LABELS
    found = compute_loss(0.1, **options)(outputs, labels)
    expected = multismooth.loss(
        LOGITS[:, :-1].reshape(-1, K), labels[:, 1:].reshape(-1), label_smoothing=0.1, **options
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_rows_are_shifted_like_labels():
    rows = torch.nn.functional.one_hot(LABELS.clamp(min=0), K).double()
    found = compute_loss(0.1)({"logits": LOGITS}, rows)
    expected = compute_loss(0.1)({"logits": LOGITS}, LABELS.clamp(min=0))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("count", [10, torch.tensor(10), torch.tensor([[10], [10]])], ids=["int", "tensor", "devices"])
def test_the_number_of_items_divides(count):
    loss = compute_loss(0.1, "others", shift=False)
    found, own = loss({"logits": LOGITS}, LABELS, num_items_in_batch=count), loss({"logits": LOGITS}, LABELS)
    torch.testing.assert_close(found, own * 7 / 10, rtol=1e-12, atol=0)
    found *= 2  # as the Trainer does for several processes


def test_it_is_pickled_with_its_options():
    loss = compute_loss(0.2, "others", shift=False, weight=[1.0] * K, ignore_index=-1)
    labels = LABELS.clamp(min=-1)
    assert pickle.loads(pickle.dumps(loss))({"logits": LOGITS}, labels) == loss({"logits": LOGITS}, labels)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: compute_loss(smoothing=0.1), "unexpected keyword argument 'smoothing'. Did you mean label_smoothing"),
        (lambda: compute_loss(shift=1), "`shift`: expected True or False"),
        (lambda: compute_loss(0.1, "hugging"), "`convention`"),
        (lambda: compute_loss()({"logits": LOGITS}, None), "`labels`: expected the labels of the batch; got None"),
        (lambda: compute_loss()(Seq2SeqLMOutput(logits=LOGITS), LABELS), "Seq2SeqLMOutput.*Pass shift=False"),
        (lambda: compute_loss()({"logits": LOGITS[0]}, LABELS[0]), "Pass shift=False"),
        (lambda: compute_loss()({"logits": LOGITS, "encoder_last_hidden_state": 0}, LABELS), "Pass shift=False"),
    ],
)
def test_wrong_arguments_are_errors(call, said):
    with pytest.raises((TypeError, ValueError), match=said):
        call()


def test_importing_it_imports_no_transformers_and_no_compiler():
    """Dynamo takes longer to import than PyTorch itself."""
    unwanted = {"transformers", "accelerate", "torch._dynamo"}
    code = f"import sys, multismooth.transformers; print({unwanted} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "set()"


# --- beside the Trainer's own losses --------------------------------------------------------------------------------

VOCABULARY, LENGTH = 50, 12
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def causal(transformers):
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=VOCABULARY, **SMALL))


def seq2seq(transformers):
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    sizes = {"d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": LENGTH}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    config = transformers.BartConfig(vocab_size=VOCABULARY, dropout=0.0, **layers, **sizes, **tokens)
    return transformers.BartForConditionalGeneration(config)


def classification(transformers):
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(vocab_size=VOCABULARY, num_labels=3, **none, **SMALL)
    )


def sentences(model):
    """Sixteen sentences of very different lengths."""
    rng = np.random.default_rng(1)
    for length in rng.integers(2, LENGTH + 1, 16):
        words, mask = torch.from_numpy(rng.integers(3, VOCABULARY, LENGTH)), torch.arange(LENGTH) < length
        row = {"input_ids": words * mask, "attention_mask": mask.long(), "labels": torch.where(mask, words, -100)}
        if model is classification:
            row["labels"] = words[0] % 3
        if model is seq2seq:  # which the Trainer takes the labels from
            row["decoder_input_ids"] = torch.cat([torch.tensor([2]), row["input_ids"][:-1]])
        yield row


def trained(model, per_device, accumulation, folder, function=None, factor=0.0):
    """(the loss of each step, all weights) after two steps of eight sentences by the Trainer."""
    transformers = need("transformers")
    need("accelerate")
    torch.manual_seed(0)
    network, rows = model(transformers), list(sentences(model))
    arguments = transformers.TrainingArguments(
        str(folder), per_device_train_batch_size=per_device, gradient_accumulation_steps=accumulation, max_steps=2,
        learning_rate=0.1, optim="sgd", max_grad_norm=0.0, logging_steps=1, save_strategy="no", report_to=[],
        use_cpu=True, disable_tqdm=True, label_smoothing_factor=factor,
    )  # fmt: skip
    trainer = transformers.Trainer(
        network, arguments, train_dataset=rows, data_collator=collated, compute_loss_func=function
    )
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(rows)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return torch.tensor(losses), torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def collated(rows):
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


pytest_ignore = pytest.mark.filterwarnings("ignore")  # what transformers and accelerate warn of
MODELS = pytest.mark.parametrize("model", [causal, seq2seq, classification], ids=lambda model: model.__name__)
ACCUMULATIONS = [(8, 1), (4, 2), (2, 4)]


@pytest_ignore
@MODELS
def test_it_trains_like_the_trainers_own_smoothed_loss_at_any_accumulation(model, tmp_path):
    function = compute_loss(0.1, shift=model is causal)
    for accumulation in ACCUMULATIONS:
        expected = trained(model, *accumulation, tmp_path, factor=0.1)
        assert_same(trained(model, *accumulation, tmp_path, function), expected)
    unsmoothed, _ = trained(model, 8, 1, tmp_path)
    assert (unsmoothed - expected[0]).abs().max() > 1e-4


@pytest_ignore
@MODELS
def test_without_smoothing_it_trains_like_the_models_own_loss(model, tmp_path):
    """At 1 x 8. With more accumulation BART's and BERT's own losses are those of one micro-batch times their number."""
    function = compute_loss(0.0, shift=model is causal)
    expected = trained(model, 8, 1, tmp_path)
    for accumulation in ACCUMULATIONS:
        assert_same(trained(model, *accumulation, tmp_path, function), expected)
        if model is causal:
            assert_same(trained(model, *accumulation, tmp_path), expected)


@pytest_ignore
def test_evaluation_takes_it_too(tmp_path):
    transformers = need("transformers")
    need("accelerate")
    network, rows = causal(transformers), list(sentences(causal))
    arguments = transformers.TrainingArguments(
        str(tmp_path), per_device_eval_batch_size=16, report_to=[], use_cpu=True, disable_tqdm=True
    )
    trainer = transformers.Trainer(network, arguments, data_collator=collated, compute_loss_func=compute_loss(0.1))
    with torch.no_grad():
        batch = collated(rows)
        logits = network.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        expected = multismooth.loss(logits[:, :-1], batch["labels"][:, 1:], label_smoothing=0.1)
    assert trainer.evaluate(rows)["eval_loss"] == pytest.approx(expected.item(), rel=1e-5)
