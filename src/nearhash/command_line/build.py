"""``nearhash build``: vectors from a file into an index file."""

import time
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from nearhash.command_line.report import JsonOption, ThreadsOption, print_json, progress_bar, results
from nearhash.command_line.vector_files import read_ids, read_labels, read_vectors


class IndexKind(str, Enum):
    """Kinds of index that can be built."""

    graph = "graph"
    ivf = "ivf"
    flat = "flat"


class Metric(str, Enum):
    """Distances."""

    l2 = "l2"
    ip = "ip"
    cosine = "cosine"


class Codec(str, Enum):
    """How an index codes the vectors that it walks over or scans."""

    pq4 = "pq4"
    pq8 = "pq8"
    rabitq = "rabitq"
    lvq4 = "lvq4"
    lvq4x8 = "lvq4x8"
    lvq8 = "lvq8"
    float8 = "float8"
    f16 = "f16"
    f32 = "f32"


class Dtype(str, Enum):
    """How a flat index stores vectors."""

    float32 = "float32"
    float16 = "float16"
    int8 = "int8"
    uint8 = "uint8"


# The kinds of index that a setting is for.
SETTINGS = {
    "codec": (IndexKind.graph, IndexKind.ivf),
    "degree": (IndexKind.graph,),
    "build_beam": (IndexKind.graph,),
    "lists": (IndexKind.ivf,),
    "spill": (IndexKind.ivf,),
    "seed": (IndexKind.graph, IndexKind.ivf),
    "dtype": (IndexKind.flat,),
}
CODECS = {
    IndexKind.graph: tuple(codec for codec in Codec if codec != Codec.pq4),
    IndexKind.ivf: tuple(codec for codec in Codec if codec != Codec.lvq4x8),
}


def build(
    vectors: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            exists=True,
            dir_okay=False,
            help="Vectors: .npy, .npz, .fvecs, .bvecs, .ivecs, or numbers as text in .csv, .tsv, .txt.",
        ),
    ],
    out: Annotated[Path, typer.Option(dir_okay=False, help="The index file to write.")],
    index: Annotated[
        IndexKind,
        typer.Option(
            "--index", "--kind", help="graph, ivf: approximate, fast; ivf builds faster, is smaller; flat: exact."
        ),
    ] = IndexKind.graph,
    metric: Annotated[Metric, typer.Option(help="Squared Euclidean, negative inner product or 1 - cosine.")] = (
        Metric.cosine
    ),
    codec: Annotated[
        Codec | None,
        typer.Option(help="Graph (all but pq4) and ivf (all but lvq4x8).", show_default="graph: lvq8, ivf: pq4"),
    ] = None,
    degree: Annotated[int | None, typer.Option(min=2, help="Graph only: edges of a node.", show_default="32")] = None,
    build_beam: Annotated[
        int | None, typer.Option(min=1, help="Graph only: candidates per inserted vector.", show_default="128")
    ] = None,
    lists: Annotated[
        int | None, typer.Option(min=1, help="Ivf only: lists of the partition.", show_default="2.5 sqrt(n)")
    ] = None,
    spill: Annotated[
        bool | None, typer.Option("--spill", help="Ivf only: every vector in a second list too.", show_default=False)
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Graph and ivf: seed of the build.", show_default="0")] = None,
    dtype: Annotated[
        Dtype | None, typer.Option(help="Flat only: how vectors are stored.", show_default="float32")
    ] = None,
    threads: ThreadsOption = None,
    labels: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A number per vector, for --window: .npy or text.")
    ] = None,
    ids: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="An id per vector: .npy or text.", show_default="0, 1, 2, ..."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output file.")] = False,
    json: JsonOption = False,
) -> None:
    """Build an index from a file of vectors."""
    if out.exists() and not force:
        raise typer.BadParameter(f"{out} exists; --force overwrites it", param_hint="--out")
    if not out.absolute().parent.is_dir():
        raise typer.BadParameter(f"the folder of {out} does not exist", param_hint="--out")
    given = {
        "codec": codec and codec.value,
        "degree": degree,
        "build_beam": build_beam,
        "lists": lists,
        "spill": spill,
        "seed": seed,
        "dtype": dtype and dtype.value,
    }
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for name in settings:
        if index not in SETTINGS[name]:
            kinds = " and ".join(kind.value for kind in SETTINGS[name])
            raise typer.BadParameter(f"for --index {kinds} only", param_hint="--" + name.replace("_", "-"))
    if codec is not None and codec not in CODECS[index]:
        names = ", ".join(one.value for one in CODECS[index])
        raise typer.BadParameter(f"got {codec.value}, expected one of {names} for {index.value}", param_hint="--codec")

    import nearhash as nh

    matrix = read_vectors(vectors)
    id_column = None if ids is None else read_ids(ids)
    label_column = None if labels is None else read_labels(labels)
    built: nh.FlatIndex | nh.GraphIndex | nh.IVFIndex
    if index is IndexKind.graph:
        built = nh.GraphIndex(matrix.shape[1], metric=metric.value, threads=threads, **settings)
    elif index is IndexKind.ivf:
        built = nh.IVFIndex(matrix.shape[1], metric=metric.value, threads=threads, **settings)
    else:
        built = nh.FlatIndex(matrix.shape[1], metric=metric.value, **settings)
    started = time.perf_counter()
    with progress_bar("Building") as progress:
        built.add(matrix, ids=id_column, labels=label_column, progress=progress)
    seconds = time.perf_counter() - started
    built.save(out)

    size = out.stat().st_size
    document = {
        "file": str(out),
        "file_bytes": size,
        "bytes_per_vector": size / len(built),
        "build_seconds": seconds,
        "index": built.info(),
    }
    if json:
        print_json(document)
    else:
        _print_summary(document)


def _print_summary(document: dict[str, Any]) -> None:
    index = document["index"]
    results().print(
        f"{document['file']}: {index['kind']} index of {index['size']:,} vectors, dimension {index['dim']}, "
        f"{index['metric']}; built in {document['build_seconds']:.1f} s, {document['file_bytes']:,} bytes "
        f"({document['bytes_per_vector']:.0f} per vector)",
        soft_wrap=True,
        markup=False,
    )
