"""ONNX files that are served as they are: their inputs, the output to use, and the remaining processing."""

from pathlib import Path

from embedmill_worker.models.disk import is_file, sha256_of
from embedmill_worker.models.files import ModelFiles, Pooling, SentenceConfig
from embedmill_worker.models.formats.onnx_graph import FINISHED_OUTPUT, KNOWN_INPUTS, TASK_INPUT, GraphFacts


def files_of_graph(
    name: str,
    graph: Path,
    tokenizer: Path,
    sentence: SentenceConfig,
    *,
    data_dir: Path,
    output: int | str | None = None,
    fixed_tokens: int = 0,
    pad_id: int = 0,
) -> ModelFiles:
    """Describe an ONNX file that is served as it is.

    Args:
        name: name that users give it.
        graph: path of the ONNX file.
        tokenizer: path of `tokenizer.json`.
        sentence: how vectors are computed.
        data_dir: folder that keeps facts about graphs.
        output: number or name of the output to use; None: the first that fits.
        fixed_tokens: see `ModelFiles`.
        pad_id: see `ModelFiles`.

    Raises:
        ValueError: the file is damaged, or has inputs or outputs that are not supported.
        OSError: a file cannot be read.
    """
    graph_sha256 = sha256_of(graph)
    facts = GraphFacts.cached(graph, graph_sha256, data_dir / "graphs")
    external = [graph.parent / place for place in facts.external]
    homes = (graph.parent.resolve(), graph.resolve().parent)  # folders that ONNX Runtime accepts
    for path in external:
        if not any(path.resolve().is_relative_to(home) for home in homes) or not is_file(path):
            raise ValueError(f"{graph.name} keeps weights in {path.name}, which is not beside it; copy it there")
    _check_inputs(graph, facts, sentence)
    pooling, used = _pooling(graph, facts, sentence) if output is None else _stated(graph, facts, sentence, output)
    return ModelFiles(
        name=name,
        graph=graph,
        tokenizer=tokenizer,
        output=used,
        pooling=pooling,
        pools_prompt=sentence.pools_prompt,
        # A finished vector has already passed them.
        layers=() if used == FINISHED_OUTPUT else sentence.layers,
        normalize=sentence.normalize,
        max_tokens=sentence.max_tokens,
        prompts=sentence.prompts,
        task_ids=sentence.task_ids if TASK_INPUT in facts.inputs else {},
        fixed_tokens=fixed_tokens,
        pad_id=pad_id,
        precision=facts.precision,
        weights_sha256=sha256_of(graph, *external) if external else graph_sha256,
        tokenizer_sha256=sha256_of(tokenizer),
        sources={
            **sentence.sources,
            **({"pooling": f"{graph.name}, output {used}"} if pooling is Pooling.NONE else {}),
        },
    )


def _check_inputs(graph: Path, facts: GraphFacts, sentence: SentenceConfig) -> None:
    known = KNOWN_INPUTS | ({TASK_INPUT} if sentence.task_ids else set())
    if set(facts.inputs) - known or "input_ids" not in facts.inputs:
        raise ValueError(
            f"{graph.name} takes {', '.join(facts.inputs)}, only {', '.join(sorted(known))} are supported; "
            "export it without the others"
        )
    if "position_ids" in facts.inputs and not sentence.counts_from_zero:
        raise ValueError(f"{graph.name} takes position_ids that begin at its padding token; export it without them")


def _pooling(graph: Path, facts: GraphFacts, sentence: SentenceConfig) -> tuple[Pooling, str]:
    """Return the pooling to apply after the graph, and the output to apply it to.

    Finished vectors of a bare folder are used as they are.
    """
    is_finished = not sentence.is_pooling_stated and facts.pooled_output == FINISHED_OUTPUT
    if facts.token_output and not is_finished and sentence.pooling is not Pooling.NONE:
        return sentence.pooling, facts.token_output
    if facts.pooled_output:
        return Pooling.NONE, facts.pooled_output
    shapes = ", ".join(f"{name} of rank {rank}" for name, rank in facts.outputs)
    raise ValueError(f"{graph.name} returns {shapes}; (batch, tokens, hidden) or (batch, dimension) is needed")


def _stated(graph: Path, facts: GraphFacts, sentence: SentenceConfig, output: int | str) -> tuple[Pooling, str]:
    """Return the requested output, and its pooling: the model's if the output holds token vectors."""
    names = [name for name, _ in facts.outputs]
    if (output not in names) if isinstance(output, str) else (output >= len(names)):
        raise ValueError(f"{graph.name} has the outputs {', '.join(names)}, not {output}")
    name, rank = facts.outputs[output if isinstance(output, int) else names.index(output)]
    is_pooled = rank == 2 or (rank < 0 and sentence.pooling is Pooling.NONE)
    if not is_pooled and (rank not in (3, -1) or sentence.pooling is Pooling.NONE):
        raise ValueError(f"{graph.name} returns {name} of rank {rank}, which {sentence.pooling} pooling cannot use")
    return (Pooling.NONE if is_pooled else sentence.pooling), name
