"""The evaluation on a real decoder, run on a tiny one of random weights."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import nearhash as nh  # noqa: E402
from benchmarks.attention import evaluation_plot, evaluation_report, generation, perplexity, task_cases, tasks, tensors  # noqa: E402
from benchmarks.attention.dump import Dump, dump  # noqa: E402
from benchmarks.attention.partial import with_kept  # noqa: E402
from benchmarks.attention.side_by_side import SideBySide, step  # noqa: E402
from benchmarks.attention.text import paragraphs  # noqa: E402
from benchmarks.record import write_document  # noqa: E402
from nearhash.attention.decoder import as_options  # noqa: E402

MACHINE = {"cpu": "any", "features": [], "cores": 1, "l3_bytes": None, "system": "any", "python": "3"}


class Letters:
    """A tokenizer whose tokens are characters."""

    def __call__(self, text):
        return SimpleNamespace(input_ids=[ord(letter) % 128 for letter in text])

    def decode(self, tokens):
        return "".join(chr(token) for token in tokens)


@pytest.fixture(scope="module")
def model():
    nh.attention.register()
    config = transformers.LlamaConfig(
        vocab_size=128, hidden_size=32, intermediate_size=32, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=1024, initializer_range=0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    made = transformers.LlamaForCausalLM(config).eval()
    made.set_attn_implementation("nearhash")
    return made


@pytest.fixture
def prose(monkeypatch):
    line = "that there is nothing at all to be found here but a few words for copies"
    words = line.split()
    rng = np.random.default_rng(0)
    sentences = [f" Sentence {number} says {' '.join(rng.permutation(words))}." for number in range(200)]
    monkeypatch.setattr(task_cases, "prose", lambda: "".join(sentences))


def tokens(count, seed=0):
    return np.random.default_rng(seed).integers(0, 128, count).tolist()


def test_a_dump_holds_what_attention_sees(model):
    given = tokens(40)
    found = dump(model, given, (0, 2))
    assert found.queries.shape == (2, 4, 40, 8)
    assert found.keys.shape == found.values.shape == (2, 2, 40, 8)
    cache = transformers.DynamicCache(config=model.config)
    with torch.no_grad():
        model(torch.tensor([given]), past_key_values=cache)
    keys, _ = SideBySide(model, given)._read.layers[2].read()
    assert np.allclose(found.keys[1], keys[0].numpy(), atol=1e-6)
    assert model.config._attn_implementation == "nearhash"


def test_rows_side_by_side_are_what_each_is_alone(model):
    given, later = tokens(300), [5, 9, 2]
    few = {"budget": 40, "dense_layers": (), "dense_below": 0, "sink": 4, "local": 16}
    ways = ({"estimator": "dense"}, {"budget": 1.0}, {}, {"codec": "pq4"}, {"estimator": "topk_oracle"})
    context = SideBySide(model, given)
    rows = _rows(model, context, [as_options({**few, **way}) for way in ways], later)
    with torch.no_grad():
        wanted = model(torch.tensor([[*given, *later]])).logits[0, -1]
    assert torch.allclose(rows[0], wanted, atol=1e-3)
    assert torch.allclose(rows[1], wanted, atol=1e-3)
    for at in range(2, len(ways)):
        (alone,) = _rows(model, context, [as_options({**few, **ways[at]})], later)
        # A rounding more or less may change codes of the queries.
        assert torch.dist(rows[at], alone) < 0.3 * torch.dist(rows[at], wanted)


def _rows(model, context, options, later):
    cache = context.fork(options)
    return [step(model, cache, [token] * len(options)) for token in later][-1]


def test_predictions_are_compared_with_those_of_dense_attention(model, monkeypatch, tmp_path):
    monkeypatch.setattr(perplexity, "DENSE_LAYERS", frozenset({0}))
    ways = {"dense": {"estimator": "dense"}, "priority, lvq4, 10%": {"budget": 1.0},
            "top-k oracle, 5%": {"estimator": "topk_oracle", "budget": 1}}  # fmt: skip
    found = [perplexity.measure(model, tokens(260, seed), 6, ways, 1) for seed in range(2)]
    dense, whole, few = perplexity.summary(list(ways), ways, found)
    assert dense["divergence"] == 0
    assert dense["agreement"] == 1
    assert dense["predictions"] == 10
    assert whole["divergence"] < 1e-6
    assert whole["share_read"] == 1
    assert few["divergence"] > whole["divergence"]
    assert few["share_read"] < 0.65
    with torch.no_grad():
        logits = model(torch.tensor([tokens(260, 0)])).logits[0].log_softmax(dim=-1)
    wanted = [-float(logits[at, tokens(260, 0)[at + 1]]) for at in range(254, 259)]
    assert np.allclose(found[0]["nats"][0], wanted, atol=1e-3)

    settings = {"model": "tiny", "predicted": 6, "dense_layers": [0], "read": {"short window": [4, 16]}}
    document = {"date": "today", "machine": MACHINE, "settings": settings,
                "contexts": [{"tokens": 260, "ways": [dense, whole, few]}]}  # fmt: skip
    assert "| top-k oracle, 5% |" in evaluation_report.perplexity_part(document, ".")
    evaluation_plot.plot_perplexity(document, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_errors_of_tensors(monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    keys, values, queries = (rng.standard_normal((1, heads, 512, 16), dtype=np.float32) for heads in (2, 2, 4))
    monkeypatch.setattr(tensors, "SHARES", (0.4, 1.0))
    monkeypatch.setattr(tensors, "SETTINGS", ((4, 10),))
    monkeypatch.setattr(tensors, "SEEDS", 8)
    document = tensors.run(Dump((2,), queries * 3, keys, values), [512])
    ways = {(way["name"], way["share"]): way for way in document["contexts"][0]["ways"]}
    for name, _ in ways:
        assert 0.3 < ways[name, 0.4]["share_read"] <= 0.41
        assert ways[name, 1.0]["error"] < 1e-5
    assert ways["priority, lvq4", 0.4]["error"] < ways["uniform", 0.4]["error"]
    (pig,) = document["contexts"][0]["equal_reads"]
    own, single = pig["rivals"]["MagicPIG"], pig["rivals"]["priority, lvq4, reads of a query"]
    assert 0.27 < own["share_read"] < 1
    assert abs(own["share_read"] - single["share_read"]) < 0.01
    assert {one["name"] for one in document["bias"]} == {"priority", "uniform", "vattention"}
    document["machine"] = MACHINE
    assert "| quest |" in evaluation_report.tensors_part(document, ".")
    evaluation_plot.plot_tensors(document, tmp_path / "plot.png")


@pytest.mark.parametrize("name", task_cases.TASKS)
def test_answers_stand_in_the_contexts(name, prose):
    case = task_cases.TASKS[name](Letters(), 3000, np.random.default_rng(1))
    text = Letters().decode(case.context)
    assert 2500 < len(case.context) <= 3000
    assert case.questions
    for question in case.questions:
        assert question.score(question.answer + " and so on", question.answer) == 1
        assert question.score(" nothing", question.answer) == 0
        if name == "frequent words":
            counts = {word: len(re.findall(rf"\b{word}\b", text)) for word in set(re.findall(r"\w+", text))}
            assert set(sorted(counts, key=counts.get)[-3:]) == set(question.answer.split())
        else:
            assert question.prompt.strip() + question.answer in text


def test_tasks_give_the_dense_score_where_all_is_read(model, prose):
    case = task_cases.string_copy(Letters(), 1500, np.random.default_rng(0))
    said = []
    question = case.questions[0]._replace(score=lambda text, wanted: float(said.append(text) or len(text)))
    case = case._replace(questions=[question])
    scores = tasks.ask(model, Letters(), case, {"priority": {"budget": 1.0}}, 1)
    assert list(scores[0]) == ["dense", "priority, question dense", "priority, question sparse"]
    assert len(set(scores[0].values())) == 1
    assert len(set(said)) == 1
    assert len(said[0]) == len(question.answer) + 2
    entry = {"task": "string copy", "tokens": 1500, **tasks.summary(scores)}
    document = {"date": "today", "machine": MACHINE, "settings": {"model": "tiny"}, "tasks": [entry]}
    assert "| priority, question sparse |" in evaluation_report.tasks_part(document)


def test_generation_is_timed_on_the_same_tokens(model):
    stock = transformers.LlamaForCausalLM(model.config).eval()
    stock.load_state_dict(model.state_dict())
    stock.set_attn_implementation("sdpa")
    contestants = generation.measure(stock, model, tokens(200), 4, 2, 1)
    model.set_attn_implementation("nearhash")
    assert len(contestants["sdpa"]["ms"]) == 2
    assert contestants["sdpa"]["agreement"] == contestants["nearhash, dense"]["agreement"] == 1
    settings = {"model": "tiny", "generated": 4, "rounds": 2, "short": 16}
    contexts = [{"tokens": 200, "contestants": contestants}]
    document = {"date": "today", "machine": MACHINE, "threads": 1, "contexts": contexts, "settings": settings}
    assert "200 tokens, nearhash, priority 5%" in evaluation_report.generation_part(document)


def test_entries_of_other_runs_are_kept(tmp_path):
    path = tmp_path / "file.json"
    first = {"settings": {"a": 1}, "contexts": [{"tokens": 4, "x": 1}, {"tokens": 8, "x": 1}]}
    assert with_kept(path, first, "contexts", ("tokens",)) == first
    write_document(path, first)
    later = {"settings": {"a": 1}, "contexts": [{"tokens": 4, "x": 2}, {"tokens": 2, "x": 2}]}
    kept = with_kept(path, later, "contexts", ("tokens",))["contexts"]
    assert kept == [{"tokens": 2, "x": 2}, {"tokens": 4, "x": 2}, {"tokens": 8, "x": 1}]
    with pytest.raises(ValueError, match="other settings"):
        with_kept(path, {**later, "settings": {}}, "contexts", ("tokens",))


def test_prose_is_made_of_paragraphs():
    long = "words that go on " * 4
    assert paragraphs(f"HEADING\r\n\r\n{long}\r\n{long}\r\n\r\n* a * b {long * 3}\r\n") == (long + long).strip() + "\n"
